// The launch of the kernels of kernels/planes.cu.

typedef void (*Kernel)(const Program *, const u32 *, u32 *, u32 *, u32 *);
static Kernel launched;
static std::vector<Program> numbers;
static const u32 *chunk_words;
static u32 *symbol_words, *result_words, *error_word;

static void one_thread() { launched(numbers.data(), chunk_words, symbol_words, result_words, error_word); }

extern "C" void launch(Kernel kernel, const u32 *grid, const void *params, const u32 *chunk, u32 *symbols,
                       u32 *result, u32 *errors) {
    launched = kernel;
    numbers.resize(grid[2]);
    memcpy(numbers.data(), params, grid[2] * sizeof(Program));
    chunk_words = chunk, symbol_words = symbols, result_words = result, error_word = errors;
    run_blocks(grid[0], one_thread, grid[1], grid[2]);
}
