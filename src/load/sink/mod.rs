//! Where decoded, verified bytes go: host memory here, devices in modules beside it.
//!
//! A sink sees tensors in the order asked, each as one run of rising offsets, and only bytes that
//! were verified.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod decode;
pub mod dequant;
pub mod device;
pub mod host;
pub mod resident;
pub mod stream;
pub mod upload;
pub mod weights;
#[cfg(feature = "wgpu")]
pub mod wgpu;

use std::sync::Arc;

use async_trait::async_trait;

use crate::load::{LoadError, Loader, Tensor};
use crate::schedule::plan::TensorRequest;

/// A place for tensors.
#[async_trait]
pub trait Sink: Send {
    /// What the sink makes of a tensor.
    type Output: Send;
    /// Why it could not.
    type Error: Send + From<LoadError>;

    /// A tensor begins: what of it is wanted says its shape and size.
    async fn begin(&mut self, request: &Arc<TensorRequest>) -> Result<(), Self::Error>;

    /// The next bytes of the tensor that has begun. The sink drops `piece` as soon as it does not
    /// need the memory, which then serves the rest of the load.
    async fn piece(&mut self, piece: Tensor) -> Result<(), Self::Error>;

    /// The tensor has all its bytes.
    async fn finish(&mut self, request: &Arc<TensorRequest>) -> Result<Self::Output, Self::Error>;
}

/// Runs a load into a sink; `each` gets what becomes of every tensor.
///
/// # Errors
/// If the load or the sink fails.
pub async fn drain<S: Sink>(
    loader: &mut Loader,
    sink: &mut S,
    mut each: impl FnMut(S::Output) + Send,
) -> Result<(), S::Error> {
    while let Some(piece) = loader.next().await {
        if let Some(made) = take(sink, piece?).await? {
            each(made);
        }
    }
    Ok(())
}

/// Gives a piece to a sink; what becomes of the tensor if it was the last one.
///
/// # Errors
/// If the sink fails.
pub async fn take<S: Sink>(sink: &mut S, piece: Tensor) -> Result<Option<S::Output>, S::Error> {
    let (request, last) = (piece.request.clone(), piece.is_last_piece());
    if piece.is_first_piece() {
        sink.begin(&request).await?;
    }
    sink.piece(piece).await?;
    if last { sink.finish(&request).await.map(Some) } else { Ok(None) }
}
