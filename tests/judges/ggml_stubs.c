// What ggml-quants.c asks of the rest of ggml, so that its quantizers can be called alone.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

float ggml_table_f32_f16[1 << 16];

__attribute__((constructor)) static void fill(void) {
    for (uint32_t bits = 0; bits < 1 << 16; bits++) {
        uint16_t half = (uint16_t)bits;
        _Float16 value;
        memcpy(&value, &half, sizeof value);
        ggml_table_f32_f16[bits] = (float)value;
    }
}

void ggml_abort(const char * file, int line, const char * format, ...) { abort(); }
size_t ggml_row_size(int type, int64_t elements) { abort(); }
size_t ggml_type_size(int type) { abort(); }
const char * ggml_type_name(int type) { abort(); }
