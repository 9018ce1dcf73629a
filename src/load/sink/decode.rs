//! Chunks into device memory as they are stored, verified on the host and decoded by the device
//! (codecs 16, 17, 32 and 33).
//!
//! The loader is asked for the stored bytes of such chunks, which it verifies as it verifies all; their
//! heads are checked here, and what only a decoder can notice, the device reports before the tensor is
//! delivered. A chunk that is stored against a base comes right behind it, which the device decodes to
//! memory of its own. Tensors that a device does not decode are decoded by the host, and counted.

use std::collections::HashSet;
use std::sync::Arc;

use super::Sink;
use super::device::DeviceError;
use super::stream::{DeviceSink, DeviceTensor, UploadStats};
use super::upload::{Device, Staging};
use crate::chunk::codec::{
    BAD_ESCAPES, BAD_INDEX, BAD_LENGTH, BAD_PADDING, BAD_STATE, BAD_WORDS, DecodeError,
    DeltaProgram, Malformed, Program,
};
use crate::chunk::verified::VerifiedChunk;
use crate::format::grid::Rect;
use crate::format::record::{ChunkRecord, CodecId};
use crate::load::{StoredChunk, Tensor};
use crate::schedule::plan::{Form, ListIndex, RecordIndex, TensorRequest};
use async_trait::async_trait;

/// A chunk that is to be decoded to a place in a tensor.
#[derive(Debug, Clone)]
pub struct Placed {
    /// How.
    pub program: Program,
    /// Where its [`Program::image`] begins: a multiple of 256.
    pub at: u64,
    /// Its place.
    pub rect: Rect,
}

/// What images begin at multiples of.
const ALIGN: u64 = 256;
/// What the tables of a chunk take in its image, mostly.
const TABLES: u64 = 8 << 10;

/// What decodes chunks on a device.
pub trait Decoder<D: Device>: Send {
    /// Whether a tensor of `len` bytes lies in memory so that the chunk at `rect` can be decoded into it.
    fn fits(&self, len: u64, rect: &Rect) -> bool;

    /// Bytes of images that it is best given in one call, if there are so many: a device that is filled by
    /// one chunk says 0.
    fn batch(&self) -> u64;

    /// Begins to decode chunks, whose images are in `images`, to their places in `to`.
    ///
    /// # Errors
    /// If they do not fit, or the device fails.
    fn decode(
        &mut self,
        chunks: &[Placed],
        images: &D::Memory,
        to: &mut D::Memory,
    ) -> Result<(), DeviceError>;

    /// Begins to decode a chunk, whose [`DeltaProgram::image`] is in `chunk`, against what `base` begins
    /// with, to its place in `to`.
    ///
    /// # Errors
    /// If it does not fit, or the device fails.
    fn decode_against(
        &mut self,
        program: &DeltaProgram,
        chunk: &D::Memory,
        base: &D::Memory,
        to: &mut D::Memory,
        rect: &Rect,
    ) -> Result<(), DeviceError>;

    /// Waits, and says what was wrong with the chunks since the last time: [`BAD_LENGTH`] and others.
    ///
    /// # Errors
    /// If the device fails.
    fn faults(&mut self) -> Result<u32, DeviceError>;

    /// The same of chunks that are stored against bases: [`BAD_WORDS`] and others.
    ///
    /// # Errors
    /// If the device fails.
    fn delta_faults(&mut self) -> Result<u32, DeviceError>;
}

/// Which tensors are decoded where.
#[derive(Debug, Clone, Copy, Default)]
pub struct Route {
    /// Tensors that the device decodes.
    pub device: u64,
    /// Tensors that the host decodes, those that are stored as they are left out.
    pub host: u64,
}

impl Route {
    /// What to load for `wanted`: the chunks of what the device decodes as they are stored. `read` says
    /// which tensors are wanted by the host.
    pub fn new<D: Device>(
        wanted: &[Arc<TensorRequest>],
        decoder: &dyn Decoder<D>,
        read: impl Fn(&TensorRequest) -> bool,
    ) -> (Self, Vec<Arc<TensorRequest>>) {
        let mut route = Self::default();
        let loaded = wanted.iter().map(|request| {
            let order = if read(request) { None } else { order(request, decoder) };
            let Some(order) = order else {
                let encoded = request.records.iter().any(|record| record.codec != CodecId::RAW);
                route.host += u64::from(encoded);
                return request.clone();
            };
            route.device += 1;
            Arc::new(TensorRequest { form: Form::Stored(order), ..(**request).clone() })
        });
        let loaded = loaded.collect();
        (route, loaded)
    }
}

/// The chunks of a tensor, each behind its bases, if all of it is wanted, kernels decode all of it, to
/// whole words, and no base is needed twice.
fn order<D: Device>(request: &TensorRequest, decoder: &dyn Decoder<D>) -> Option<Vec<RecordIndex>> {
    let (grid, len) = (&request.entry.grid, request.entry.byte_len());
    let own = usize::try_from(grid.chunks()).ok()?;
    let coded = request.records.iter().any(|record| record.codec != CodecId::RAW);
    let linked = request.has_bases();
    let placed = |rect: Rect| {
        let whole = |bytes: u64| bytes.is_multiple_of(4);
        let rows = whole(rect.width) && whole(rect.stride);
        whole(rect.start)
            && (rows || rect.rows == 1 && (whole(rect.width) || rect.end() == len))
            && decoder.fits(len, &rect)
            && (!linked || words(&rect).is_some())
    };
    if !coded
        || request.cut.len() != len
        || request.records.len() < own
        || !grid.rects().all(placed)
    {
        return None;
    }
    let (bases, mut taken) = (request.bases(), HashSet::new());
    let mut order = Vec::with_capacity(request.records.len());
    for at in (0..own).map(RecordIndex::at) {
        let first = order.len();
        let mut next = Some(at);
        while let Some(at) = next {
            let (record, _) = request.record(at)?;
            let known = match record.codec {
                CodecId::RAW | CodecId::PLANES | CodecId::PALETTE => record.base.is_none(),
                CodecId::DELTA | CodecId::PATCH => record.base.is_some(),
                _ => false,
            };
            let room = u64::from(record.decoded_len);
            if !known || !taken.insert(at) || !decoder.fits(room, &run(room)) {
                return None;
            }
            order.push(at);
            next = match &record.base {
                Some(base) => Some(*bases.get(&base.decoded)?),
                None => None,
            };
            let same = |(below, _): (&ChunkRecord, _)| below.decoded_len == record.decoded_len;
            if next.is_some_and(|next| !request.record(next).is_some_and(same)) {
                return None;
            }
        }
        order.get_mut(first..)?.reverse();
    }
    Some(order)
}

/// So many bytes from the beginning of memory.
fn run(len: u64) -> Rect {
    Rect { start: 0, rows: 1, width: len, stride: len }
}

/// Where a chunk goes, as [`DeltaProgram::params`] has it, if kernels count that far: first word, words
/// of a row, words from row to row.
pub(super) fn words(rect: &Rect) -> Option<[u32; 3]> {
    let count = |bytes: u64| u32::try_from(bytes / 4).ok();
    count(rect.end())?;
    let row = if rect.rows == 1 { u32::MAX } else { count(rect.width)? };
    Some([count(rect.start)?, row, count(rect.stride)?])
}

/// Memory that is used again, and how much of it there is.
type Room<M> = Option<(u64, M)>;

/// Streams tensors into device memory, and decodes there what comes as it is stored.
pub struct DecodeSink<D: Device> {
    inner: DeviceSink<D>,
    decoder: Box<dyn Decoder<D>>,
    /// The tensor that is being decoded.
    memory: Option<D::Memory>,
    /// What is uploaded of a chunk, and where to, behind those of other chunks of the tensor that wait for it.
    image: Vec<u8>,
    images: Room<D::Memory>,
    waiting: Vec<Placed>,
    /// The base of the chunk that comes next, and where another one goes.
    base: Room<D::Memory>,
    spare: Room<D::Memory>,
}

impl<D: Device> DecodeSink<D> {
    /// A sink for what a [`Route`] says is loaded.
    pub fn new(inner: DeviceSink<D>, decoder: Box<dyn Decoder<D>>) -> Self {
        let image = Vec::new();
        let (memory, images, base, spare) = (None, None, None, None);
        let waiting = Vec::new();
        Self { inner, decoder, memory, image, images, waiting, base, spare }
    }

    /// What went to the device so far: stored bytes of what it decodes.
    pub fn stats(&self) -> UploadStats {
        self.inner.stats()
    }

    /// Uploads the chunk that has come, and begins to decode it, or lets it wait for others: a base to memory
    /// of its own.
    fn decode(
        &mut self,
        request: &TensorRequest,
        index: RecordIndex,
        chunk: &VerifiedChunk,
    ) -> Result<(), DeviceError> {
        let wrong = |error| DeviceError::Decode { name: request.entry.name.clone(), error };
        let (record, stored) = (chunk.record(), chunk.stored());
        let program = Coded::of(record, stored).map_err(wrong)?;
        program.image(stored, &mut self.image);
        let own = request.rect(index);
        let program = match (program, own) {
            (Coded::Alone(program), Some(rect)) => {
                let batch = self.decoder.batch();
                let place = self.upload(request, batch)?;
                self.waiting.push(Placed { program, at: place, rect });
                let is_full = place + self.image.len() as u64 >= batch;
                return if is_full { self.flush() } else { Ok(()) };
            }
            (other, _) => other,
        };
        self.flush()?;
        let place = self.upload(request, 0)?;
        let (to, rect) = if let Some(rect) = own {
            (self.memory.as_mut().ok_or_else(missing)?, rect)
        } else {
            let rect = run(record.decoded_len.into());
            let spare = room(self.inner.device(), self.spare.take(), rect.len())?;
            (&mut self.spare.insert(spare).1, rect)
        };
        let (_, images) = self.images.as_ref().ok_or_else(missing)?;
        match program {
            Coded::Alone(program) => {
                self.decoder.decode(&[Placed { program, at: place, rect }], images, to)?;
            }
            Coded::Against(program) => {
                let (_, base) = self.base.as_ref().ok_or_else(missing)?;
                self.decoder.decode_against(&program, images, base, to, &rect)?;
            }
        }
        if own.is_none() {
            std::mem::swap(&mut self.base, &mut self.spare);
        }
        Ok(())
    }

    /// Uploads the image behind those that wait, or, if it has no room there, when they are decoded; gives
    /// where it begins. There is to be room for `batch` bytes of the tensor.
    fn upload(&mut self, request: &TensorRequest, batch: u64) -> Result<u64, DeviceError> {
        let len = self.image.len() as u64;
        let behind = self.waiting.last().map_or(0, |last| last.at + last.program.image_len());
        let mut at = behind.next_multiple_of(ALIGN);
        if self.images.as_ref().is_none_or(|(room, _)| *room < at + len) {
            self.flush()?;
            at = 0;
        }
        if self.waiting.is_empty() {
            let stored = request.records.iter().map(|record| u64::from(record.stored_len) + TABLES);
            let need = batch.min(stored.sum()).max(len);
            self.images = Some(room(self.inner.device(), self.images.take(), need)?);
        }
        let (_, images) = self.images.as_mut().ok_or_else(missing)?;
        self.inner.fill(images, at, &self.image)?;
        Ok(at)
    }

    /// Begins to decode what waits.
    fn flush(&mut self) -> Result<(), DeviceError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (_, images) = self.images.as_ref().ok_or_else(missing)?;
        let to = self.memory.as_mut().ok_or_else(missing)?;
        let begun = self.decoder.decode(&self.waiting, images, to);
        self.waiting.clear();
        begun
    }

    /// What the device noticed of a tensor's chunks.
    fn check(&mut self, request: &TensorRequest) -> Result<(), DeviceError> {
        let alone = [
            (BAD_LENGTH, Malformed::StreamLength),
            (BAD_PADDING, Malformed::StreamPadding),
            (BAD_INDEX, Malformed::PaletteIndex),
        ];
        let against = [
            (BAD_WORDS, Malformed::WordCount),
            (BAD_STATE, Malformed::StateEnd),
            (BAD_ESCAPES, Malformed::EscapeCount),
        ];
        let deltas = if request.has_bases() { self.decoder.delta_faults()? } else { 0 };
        for (codec, faults, said) in
            [("planes", self.decoder.faults()?, alone), ("delta", deltas, against)]
        {
            let why = said.into_iter().find(|(fault, _)| faults & fault != 0);
            let Some((_, why)) = why else { continue };
            let error = DecodeError::Malformed { codec, why };
            return Err(DeviceError::Decode { name: request.entry.name.clone(), error });
        }
        Ok(())
    }
}

/// How kernels decode a chunk.
enum Coded {
    Alone(Program),
    Against(DeltaProgram),
}

impl Coded {
    fn of(record: &ChunkRecord, stored: &[u8]) -> Result<Self, DecodeError> {
        if let Some(program) = DeltaProgram::of(record, stored)? {
            return Ok(Self::Against(program));
        }
        let program = Program::of(record, stored)?.map(Self::Alone);
        program.ok_or(DecodeError::UnknownCodec(record.codec.0))
    }

    fn image(&self, stored: &[u8], image: &mut Vec<u8>) {
        match self {
            Self::Alone(program) => program.image(stored, image),
            Self::Against(program) => program.image(stored, image),
        }
    }
}

/// Memory for `len` bytes: what there is, if that is enough.
fn room<D: Device>(
    device: &D,
    there: Room<D::Memory>,
    len: u64,
) -> Result<(u64, D::Memory), DeviceError> {
    if let Some((room, memory)) = there.filter(|(room, _)| *room >= len) {
        return Ok((room, memory));
    }
    let room = len.next_power_of_two();
    Ok((room, device.allocate(room)?))
}

pub(super) fn misplaced() -> DeviceError {
    DeviceError::Internal("a chunk that does not lie in its tensor".to_owned())
}

fn missing() -> DeviceError {
    DeviceError::Internal("a chunk of no tensor".to_owned())
}

#[async_trait]
impl<D: Device> Sink for DecodeSink<D> {
    type Output = DeviceTensor<D::Memory>;
    type Error = DeviceError;

    async fn begin(&mut self, request: &Arc<TensorRequest>) -> Result<(), DeviceError> {
        if request.form == Form::Decoded {
            return self.inner.begin(request).await;
        }
        self.waiting.clear();
        self.memory = Some(self.inner.room(request)?);
        Ok(())
    }

    async fn piece(&mut self, piece: Tensor) -> Result<(), DeviceError> {
        match &piece.stored {
            Some(StoredChunk { record, chunk }) => self.decode(&piece.request, *record, chunk),
            None => self.inner.piece(piece).await,
        }
    }

    async fn finish(&mut self, request: &Arc<TensorRequest>) -> Result<Self::Output, DeviceError> {
        if request.form == Form::Decoded {
            return self.inner.finish(request).await;
        }
        self.flush()?;
        self.check(request)?;
        self.inner.whole();
        let memory = self.memory.take().ok_or_else(missing)?;
        Ok(DeviceTensor { request: request.clone(), memory })
    }
}

impl<D: Device> DeviceSink<D> {
    /// Copies `bytes` to `at` in device memory, a multiple of 256, through the ring.
    pub(super) fn fill(
        &mut self,
        memory: &mut D::Memory,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let size = self.ring().size();
        for (number, part) in bytes.chunks(size).enumerate() {
            let mut buffer = self.ring().take()?;
            buffer.write(0, part)?;
            self.ring().copy(buffer, part.len(), memory, at + (number * size) as u64)?;
            self.count(part.len());
        }
        Ok(())
    }
}
