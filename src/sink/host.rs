//! Host memory: the tensors as they come, each in the buffer that it was verified in.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::Sink;
use crate::loader::{LoadError, Tensor};
use crate::plan::Want;

/// Tensors in host memory. A tensor that comes whole is not copied; one that comes in pieces is
/// gathered.
#[derive(Debug, Default)]
pub struct HostSink {
    whole: Option<Bytes>,
    gathered: BytesMut,
}

#[async_trait]
impl Sink for HostSink {
    type Output = (Arc<Want>, Bytes);
    type Error = LoadError;

    async fn begin(&mut self, _: &Arc<Want>) -> Result<(), LoadError> {
        (self.whole, self.gathered) = (None, BytesMut::new());
        Ok(())
    }

    async fn piece(&mut self, piece: Tensor) -> Result<(), LoadError> {
        if piece.offset == 0 && piece.is_last_piece() {
            self.whole = Some(piece.data);
        } else {
            if piece.offset == 0 {
                self.gathered.reserve(piece.want.cut.len() as usize);
            }
            self.gathered.extend_from_slice(&piece.data);
        }
        Ok(())
    }

    async fn finish(&mut self, want: &Arc<Want>) -> Result<Self::Output, LoadError> {
        let gathered = std::mem::take(&mut self.gathered);
        let data = self.whole.take().unwrap_or_else(|| gathered.freeze());
        Ok((want.clone(), data))
    }
}
