//! Packing, from outside: what is packed is given back exactly, costs what it must and no more,
//! and survives interruption, failure and company. One file per behaviour.

#[path = "../support/model.rs"]
mod model;
#[path = "../support/run.rs"]
mod run;

mod exact;
mod same;
