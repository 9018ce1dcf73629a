//! What clients may ask: the store's own layout (native), the Hugging Face Hub, S3, the operators'
//! requests, the status page. `route` leads a request to one of them, `authorize` says whether the
//! client may have what it asks for.

pub(crate) mod admin;
pub(crate) mod authorize;
pub(crate) mod hub;
pub(crate) mod native;
pub(crate) mod route;
pub(crate) mod s3;
pub(crate) mod status;
