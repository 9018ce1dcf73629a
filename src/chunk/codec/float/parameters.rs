//! The twenty bytes of a record that say how its planes are stored.

#![expect(
    clippy::indexing_slicing,
    reason = "the places of a form's planes, of which there are 8 at most"
)]

use super::planes::{Form, MAX_WIDTH};
use crate::chunk::codec::error::Malformed;
use crate::format::record::CodecId;

/// How a plane is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// As it is.
    Raw,
    /// As a section of streams.
    Coded,
    /// Not at all: every byte of it is this one.
    Constant(u8),
}

/// The parameters of both codecs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    /// How elements lie in planes; of a palette only the width counts.
    pub(super) form: Form,
    /// Values of the palette, 1 to 256.
    pub(super) palette: Option<usize>,
    modes: [Mode; MAX_WIDTH],
}

const WIDTH: usize = 0;
const EXPONENT: usize = 1;
const MODES: usize = 2;
const CONSTANTS: usize = MODES + MAX_WIDTH;
const VALUES: usize = CONSTANTS + MAX_WIDTH;

impl Parameters {
    /// `modes` of the planes, the lowest first; those beyond the last plane are not looked at.
    pub(super) fn new(form: Form, palette: Option<usize>, modes: [Mode; MAX_WIDTH]) -> Self {
        Self { form, palette, modes }
    }

    pub(super) fn parse(codec: CodecId, bytes: &[u8; 20]) -> Result<Self, Malformed> {
        let is_palette = codec == CodecId::PALETTE;
        let said = (usize::from(bytes[WIDTH]), bytes[EXPONENT]);
        let form = Form::ALL.into_iter().find(|form| form.width_and_exponent() == said);
        let form =
            form.filter(|_| !is_palette || (said.0 > 1 && said.1 == 0)).ok_or(Malformed::NoForm)?;
        let palette = is_palette.then(|| usize::from(bytes[VALUES]) + 1);
        let mut parameters = Self::new(form, palette, [Mode::Raw; MAX_WIDTH]);
        let planes = parameters.modes().len();
        for (p, mode) in parameters.modes.iter_mut().take(planes).enumerate() {
            *mode = match bytes[MODES + p] {
                0 => Mode::Raw,
                1 => Mode::Coded,
                2 => Mode::Constant(bytes[CONSTANTS + p]),
                _ => return Err(Malformed::NoPlane),
            };
        }
        if parameters.to_bytes() != *bytes {
            return Err(Malformed::NotZero);
        }
        Ok(parameters)
    }

    pub(super) fn to_bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let (width, exponent) = self.form.width_and_exponent();
        // At most 8.
        bytes[WIDTH] = width as u8;
        bytes[EXPONENT] = exponent;
        for (p, mode) in self.modes().iter().enumerate() {
            match *mode {
                Mode::Raw => {}
                Mode::Coded => bytes[MODES + p] = 1,
                Mode::Constant(byte) => (bytes[MODES + p], bytes[CONSTANTS + p]) = (2, byte),
            }
        }
        if let Some(values) = self.palette {
            // 1 to 256.
            bytes[VALUES] = (values - 1) as u8;
        }
        bytes
    }

    /// The modes of the planes that there are, the lowest first.
    pub(super) fn modes(&self) -> &[Mode] {
        let planes = if self.palette.is_some() { 1 } else { self.form.width() };
        &self.modes[..planes]
    }

    pub(super) fn codec(&self) -> CodecId {
        match self.palette {
            Some(_) => CodecId::PALETTE,
            None => CodecId::PLANES,
        }
    }
}
