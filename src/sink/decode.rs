//! Chunks into device memory as they are stored, verified on the host and decoded by the device
//! (codecs 16 and 17).
//!
//! The loader is asked for the stored bytes of such chunks, which it verifies as it verifies all; their
//! heads are checked here, and what only a decoder can notice, the device reports before the tensor is
//! delivered. Tensors that a device does not decode are decoded by the host, and counted.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;

use super::Sink;
use super::device::DeviceError;
use super::stream::{DeviceSink, DeviceTensor, UploadStats};
use super::upload::{Device, Staging};
use crate::codec::{BAD_INDEX, BAD_LENGTH, BAD_PADDING, DecodeError, Program};
use crate::dtype::{Dtype, Shape};
use crate::format::grid::{Grid, Rect};
use crate::format::page::TensorEntry;
use crate::format::record::{ChunkRecord, CodecId};
use crate::id::{ContentDigest, DecodedDigest};
use crate::loader::Tensor;
use crate::plan::Want;

/// What decodes chunks on a device.
pub trait Decoder<D: Device>: Send {
    /// Whether a tensor of `len` bytes lies in memory so that the chunk at `rect` can be decoded into it.
    fn fits(&self, len: u64, rect: &Rect) -> bool;

    /// Begins to decode a chunk, whose [`Program::image`] is in `chunk`, to its place in `to`.
    fn decode(
        &mut self,
        program: &Program,
        chunk: &D::Memory,
        to: &mut D::Memory,
        rect: &Rect,
    ) -> Result<(), DeviceError>;

    /// Waits, and says what was wrong with the chunks since the last time: [`BAD_LENGTH`] and others.
    fn faults(&mut self) -> Result<u32, DeviceError>;
}

/// What is loaded to decode on a device, and what was wanted.
#[derive(Debug, Clone)]
enum Step {
    /// Decoded by the host.
    Host,
    /// A chunk of the first tensor, which so many follow.
    Chunk { of: Arc<Want>, at: usize, left: usize },
}

/// Which tensors are decoded where.
#[derive(Debug, Clone, Default)]
pub struct Route {
    steps: VecDeque<Step>,
    /// Tensors that the device decodes.
    pub device: u64,
    /// Tensors that the host decodes, those that are stored as they are left out.
    pub host: u64,
}

impl Route {
    /// What to load for `wanted`, and how it is to be decoded. `read` says which tensors are wanted by
    /// the host.
    pub fn new<D: Device>(
        wanted: &[Arc<Want>],
        decoder: &dyn Decoder<D>,
        read: impl Fn(&Want) -> bool,
    ) -> (Self, Vec<Arc<Want>>) {
        let (mut route, mut loaded) = (Self::default(), Vec::with_capacity(wanted.len()));
        for want in wanted {
            if read(want) || !decodes(want, decoder) {
                let encoded = want.records.iter().any(|record| record.codec != CodecId::RAW);
                route.host += u64::from(encoded);
                route.steps.push_back(Step::Host);
                loaded.push(want.clone());
                continue;
            }
            route.device += 1;
            for (at, record) in want.records.iter().enumerate() {
                let left = want.records.len() - at - 1;
                route.steps.push_back(Step::Chunk { of: want.clone(), at, left });
                let place = want.places.get(at).copied();
                let entry = stored(&want.entry, record);
                let records = vec![as_stored(record)];
                loaded.push(Arc::new(Want::new(entry, records, place.into_iter().collect(), None)));
            }
        }
        (route, loaded)
    }
}

/// Whether all of a tensor is wanted, in chunks that kernels decode to whole words.
fn decodes<D: Device>(want: &Want, decoder: &dyn Decoder<D>) -> bool {
    let len = want.entry.byte_len();
    let known = |codec| matches!(codec, CodecId::RAW | CodecId::PLANES | CodecId::PALETTE);
    let coded = want.records.iter().any(|record| record.codec != CodecId::RAW);
    coded
        && want.cut.len() == len
        && want.records.iter().all(|record| known(record.codec) && record.base.is_none())
        && want.records.len() as u64 == want.entry.grid.chunks()
        && want.entry.grid.rects().all(|rect| {
            let whole = |bytes: u64| bytes.is_multiple_of(4);
            let rows = whole(rect.width) && whole(rect.stride);
            whole(rect.start)
                && (rows || rect.rows == 1 && (whole(rect.width) || rect.end() == len))
                && decoder.fits(len, &rect)
        })
}

/// A chunk's stored bytes, as the loader sees them: a vector of bytes that are stored as they are.
fn as_stored(record: &ChunkRecord) -> ChunkRecord {
    ChunkRecord {
        codec: CodecId::RAW,
        element: Dtype::Bytes,
        parameters: [0; 20],
        base: None,
        decoded_len: record.stored_len,
        decoded: DecodedDigest::from_bytes(*record.stored.as_bytes()),
        ..*record
    }
}

fn stored(entry: &TensorEntry, record: &ChunkRecord) -> TensorEntry {
    let len = u64::from(record.stored_len);
    TensorEntry {
        dtype: Dtype::Bytes,
        shape: Shape::vector(len),
        digest: ContentDigest::from_bytes(*record.stored.as_bytes()),
        grid: Grid::run(len, len),
        ..entry.clone()
    }
}

/// Streams tensors into device memory, of which it decodes what a [`Route`] says.
pub struct DecodeSink<D: Device> {
    inner: DeviceSink<D>,
    decoder: Box<dyn Decoder<D>>,
    steps: VecDeque<Step>,
    /// The tensor that is being decoded.
    memory: Option<D::Memory>,
    /// The stored bytes of a chunk, as far as they have come.
    bytes: BytesMut,
    /// What is uploaded of it, and where to.
    image: Vec<u8>,
    chunk: Option<(u64, D::Memory)>,
}

impl<D: Device> DecodeSink<D> {
    /// A sink for what `route` says is loaded.
    pub fn new(inner: DeviceSink<D>, decoder: Box<dyn Decoder<D>>, route: Route) -> Self {
        let (bytes, image) = (BytesMut::new(), Vec::new());
        Self { inner, decoder, steps: route.steps, memory: None, bytes, image, chunk: None }
    }

    /// What went to the device so far: stored bytes of what it decodes.
    pub fn stats(&self) -> UploadStats {
        self.inner.stats()
    }

    /// Passes over a tensor that somebody else takes.
    pub fn skip(&mut self) {
        self.steps.pop_front();
    }

    /// Uploads the chunk that has come, and begins to decode it.
    fn decode(&mut self, want: &Want, at: usize) -> Result<(), DeviceError> {
        let wrong = |error| DeviceError::Decode { name: want.entry.name.clone(), error };
        let Some(record) = want.records.get(at) else { return Err(missing()) };
        let program = Program::of(record, &self.bytes).map_err(wrong)?;
        let program = program.ok_or(DecodeError::UnknownCodec(record.codec.0)).map_err(wrong)?;
        program.image(&self.bytes, &mut self.image);
        let len = self.image.len() as u64;
        let chunk = match self.chunk.take() {
            Some((room, chunk)) if room >= len => (room, chunk),
            _ => {
                let room = len.next_power_of_two();
                (room, self.inner.device().allocate(room)?)
            }
        };
        let (_, chunk) = self.chunk.insert(chunk);
        self.inner.fill(chunk, &self.image)?;
        let memory = self.memory.as_mut().ok_or_else(missing)?;
        self.decoder.decode(&program, chunk, memory, &want.entry.grid.rect(at as u64))
    }

    /// What the device noticed of a tensor's chunks.
    fn check(&mut self, want: &Want) -> Result<(), DeviceError> {
        let faults = self.decoder.faults()?;
        let said = [
            (BAD_LENGTH, "a stream is not as long as its symbols"),
            (BAD_PADDING, "a stream does not end in zero bits"),
            (BAD_INDEX, "an index is beyond its palette"),
        ];
        let why = said.into_iter().find(|(fault, _)| faults & fault != 0);
        let Some((_, why)) = why else { return Ok(()) };
        let error = DecodeError::Malformed { codec: "planes", why: why.to_owned() };
        Err(DeviceError::Decode { name: want.entry.name.clone(), error })
    }
}

fn missing() -> DeviceError {
    DeviceError::Internal("a chunk of no tensor".to_owned())
}

#[async_trait]
impl<D: Device> Sink for DecodeSink<D> {
    /// None for a chunk that is not the last of its tensor.
    type Output = Option<DeviceTensor<D::Memory>>;
    type Error = DeviceError;

    async fn begin(&mut self, want: &Arc<Want>) -> Result<(), DeviceError> {
        self.bytes.clear();
        match self.steps.front() {
            Some(Step::Host) => self.inner.begin(want).await,
            Some(Step::Chunk { of, at: 0, .. }) => {
                self.memory = Some(self.inner.room(of)?);
                Ok(())
            }
            Some(Step::Chunk { .. }) => Ok(()),
            None => Err(missing()),
        }
    }

    async fn piece(&mut self, piece: Tensor) -> Result<(), DeviceError> {
        if let Some(Step::Chunk { .. }) = self.steps.front() {
            self.bytes.extend_from_slice(&piece.data);
            return Ok(());
        }
        self.inner.piece(piece).await
    }

    async fn finish(&mut self, want: &Arc<Want>) -> Result<Self::Output, DeviceError> {
        match self.steps.pop_front() {
            Some(Step::Host) => self.inner.finish(want).await.map(Some),
            Some(Step::Chunk { of, at, left }) => {
                self.decode(&of, at)?;
                if left > 0 {
                    return Ok(None);
                }
                self.check(&of)?;
                self.inner.whole();
                let memory = self.memory.take().ok_or_else(missing)?;
                Ok(Some(DeviceTensor { want: of, memory }))
            }
            None => Err(missing()),
        }
    }
}

impl<D: Device> DeviceSink<D> {
    /// Copies `bytes` to the beginning of device memory, through the ring.
    pub(super) fn fill(&mut self, memory: &mut D::Memory, bytes: &[u8]) -> Result<(), DeviceError> {
        let size = self.ring().size();
        for (number, part) in bytes.chunks(size).enumerate() {
            let mut buffer = self.ring().take()?;
            buffer.write(0, part);
            self.ring().copy(buffer, part.len(), memory, (number * size) as u64)?;
            self.count(part.len());
        }
        Ok(())
    }
}
