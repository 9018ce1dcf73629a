// The launch of the kernels of kernels/planes.cu.

typedef void (*Kernel)(Program, const u32 *, u32 *, u32 *, u32 *);
static Kernel launched;
static Program numbers;
static const u32 *chunk_words;
static u32 *symbol_words, *result_words, *error_word;

static void one_thread() { launched(numbers, chunk_words, symbol_words, result_words, error_word); }

extern "C" void launch(Kernel kernel, u32 blocks, u32 lines, const void *params, const u32 *chunk,
                       u32 *symbols, u32 *result, u32 *errors) {
    launched = kernel;
    memcpy(&numbers, params, sizeof numbers);
    chunk_words = chunk, symbol_words = symbols, result_words = result, error_word = errors;
    run_blocks(blocks, one_thread, lines);
}
