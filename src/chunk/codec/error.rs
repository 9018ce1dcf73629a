//! Why a chunk does not decode.

/// A chunk that was verified and still does not decode: whoever signed it wrote it so.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// This release has no such codec.
    #[error("codec {0} is not known to this release; use a newer tenpak")]
    UnknownCodec(u8),
    /// The codec rejects the bytes.
    #[error("{codec} does not decode: {why}")]
    Malformed { codec: &'static str, why: Malformed },
    /// Another number of bytes than the record says.
    #[error("{codec} decoded to {have} bytes, not {need}")]
    Length { codec: &'static str, need: u32, have: usize },
    /// The chunk is stored against another one, which was not given.
    #[error("{codec} needs the chunk that it is stored against")]
    MissingBase { codec: &'static str },
    /// What was given as the base has another length.
    #[error("{codec} is stored against a chunk of {need} bytes, not of {have}")]
    BaseLength { codec: &'static str, need: u32, have: usize },
}

/// What is wrong with a chunk's stored bytes or parameters.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    #[error("the decoded length is no whole number of elements")]
    OddLength,
    #[error("its base has another length")]
    BaseLength,
    #[error("its parameters name no form of elements")]
    NoForm,
    #[error("its parameters name no contexts")]
    NoContexts,
    #[error("its parameters name no way to store a plane")]
    NoPlane,
    #[error("its segments have no length that there is")]
    NoSegment,
    #[error("its parameters have bytes that should be zero")]
    NotZero,
    #[error("it is cut short")]
    Short,
    #[error("a segment overruns the chunk")]
    SegmentOverruns,
    #[error("a section is cut short")]
    SectionShort,
    #[error("its patches are cut short")]
    PatchShort,
    #[error("a table is cut short")]
    TableShort,
    #[error("a section has 1 to 8 codes")]
    SectionCodes,
    #[error("a stream names a code that there is not")]
    NoCode,
    #[error("a code has symbols above 255")]
    WideCode,
    #[error("a code is not spelled in its one way")]
    CodeSpelling,
    #[error("its lengths are those of no complete code")]
    IncompleteCode,
    #[error("a stream overruns the chunk")]
    StreamOverruns,
    #[error("a stream is missing")]
    StreamMissing,
    #[error("a stream is not as long as its symbols")]
    StreamLength,
    #[error("a stream does not end in zero bits")]
    StreamPadding,
    #[error("a palette is cut short")]
    PaletteShort,
    #[error("a palette does not ascend")]
    PaletteOrder,
    #[error("an index is beyond its palette")]
    PaletteIndex,
    #[error("a plane is missing")]
    PlaneMissing,
    #[error("a plane is cut short")]
    PlaneShort,
    #[error("there are bytes that belong to no plane")]
    PlaneRest,
    #[error("there are bytes behind its patches")]
    PatchRest,
    #[error("its patches do not ascend")]
    PatchOrder,
    #[error("a patch is beyond the chunk")]
    PatchBeyond,
    #[error("a table has more raw bits than its elements may")]
    TableRawBits,
    #[error("a table lists symbols that there are not")]
    TableSymbols,
    #[error("a table lists symbols behind its last")]
    TableRest,
    #[error("the frequencies of a table do not sum to 1024")]
    TableSum,
    #[error("a frequency is not written in one way")]
    FrequencySpelling,
    #[error("there are bytes behind its tables")]
    TablesRest,
    #[error("a state is below 2^16")]
    StateLow,
    #[error("a state does not end where it began")]
    StateEnd,
    #[error("a segment has not as many words as its elements")]
    WordCount,
    #[error("an escaped element is missing")]
    EscapeMissing,
    #[error("there are more escapes than escaped elements")]
    EscapeRest,
    #[error("a segment has not as many escapes as escaped elements")]
    EscapeCount,
    #[error("not a frame")]
    NoFrame,
    #[error("something follows the frame, or it is cut short")]
    FrameEnd,
    #[error("its window is above 8 MiB")]
    FrameWindow,
    /// What the library says of a frame.
    #[error("{0}")]
    Zstd(String),
}
