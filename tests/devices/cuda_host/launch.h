// The launch of any kernel of kernels/*.cu: all have the same arguments.

typedef void (*Kernel)(Params, PARTS, uint4 *);
static Kernel launched;
static Params numbers;
static const void *bound[5];
static uint4 *written;

static void one_thread() {
    launched(numbers, (const u32 *)bound[0], bound[1], (const u32 *)bound[2], (const u32 *)bound[3],
             (const float *)bound[4], written);
}

extern "C" void launch(Kernel kernel, u32 blocks, const void *params, const void *const *parts, void *result) {
    launched = kernel;
    memcpy(&numbers, params, sizeof numbers);
    memcpy(bound, parts, sizeof bound);
    written = (uint4 *)result;
    run_blocks(blocks, one_thread);
}
