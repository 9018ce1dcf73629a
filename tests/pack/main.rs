//! Packing, from outside: what is packed is given back exactly, costs what it must and no more,
//! and survives interruption, failure and company. One file per behaviour.

#[path = "../support/library.rs"]
mod library;
#[path = "../support/model.rs"]
mod model;
#[path = "../support/run.rs"]
mod run;
#[path = "../support/s3.rs"]
mod s3;

mod company;
mod dedupe;
mod exact;
mod failure;
mod interrupted;
mod limits;
mod same;
mod trust;
