// The launch of the kernels of kernels/delta.cu.

typedef void (*Kernel)(Program, const u32 *, const u32 *, u32 *, u32 *);
static Kernel launched;
static Program numbers;
static const u32 *chunk_words, *base_words;
static u32 *result_words, *error_word;

static void one_thread() { launched(numbers, chunk_words, base_words, result_words, error_word); }

extern "C" void launch(Kernel kernel, u32 blocks, const void *params, const u32 *chunk, const u32 *base,
                       u32 *result, u32 *errors) {
    launched = kernel;
    memcpy(&numbers, params, sizeof numbers);
    chunk_words = chunk, base_words = base, result_words = result, error_word = errors;
    run_blocks(blocks, one_thread);
}
