/* Gradient of the weight of a depthwise 7x7 convolution with padding 3; see depthwise.py.
 *
 * x and g are (n, height, width, channels), total is (7, 7, channels). Channels from begin to end, in
 * vectors that stay in registers for a whole row. */
#include <string.h>

#define GRADIENT(NAME, T, LANES)                                                                         \
    typedef T NAME##_vector __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T))));         \
    void NAME(const T *x, const T *g, T *total, long n, long height, long width, long channels,          \
              long begin, long end)                                                                      \
    {                                                                                                    \
        typedef NAME##_vector V;                                                                         \
        long row_size = width * channels;                                                                \
        for (long line = 0; line < n * height; line++) {                                                 \
            long row = line % height;                                                                    \
            const T *theirs = g + line * row_size;                                                       \
            for (long i = 0; i < 7; i++) {                                                               \
                if (row + i < 3 || row + i >= height + 3)                                                \
                    continue;                                                                            \
                const T *ours = x + (line + i - 3) * row_size;                                           \
                long c = begin;                                                                          \
                for (; c + LANES <= end; c += LANES) {                                                   \
                    V sum[7];                                                                            \
                    memset(sum, 0, sizeof sum);                                                          \
                    long column = 0;                                                                     \
                    for (; column < width; column++) {                                                   \
                        V grad = *(const V *)(theirs + column * channels + c);                           \
                        const T *near = ours + (column - 3) * channels + c;                              \
                        if (column >= 3 && column + 3 < width) {                                         \
                            for (int j = 0; j < 7; j++)                                                  \
                                sum[j] += *(const V *)(near + j * channels) * grad;                      \
                            continue;                                                                    \
                        }                                                                                \
                        for (int j = 0; j < 7; j++)                                                      \
                            if (column + j >= 3 && column + j < width + 3)                               \
                                sum[j] += *(const V *)(near + j * channels) * grad;                      \
                    }                                                                                    \
                    for (int j = 0; j < 7; j++)                                                          \
                        *(V *)(total + (i * 7 + j) * channels + c) += sum[j];                            \
                }                                                                                        \
                for (; c < end; c++)                                                                     \
                    for (long j = 0; j < 7; j++) {                                                       \
                        T sum = 0;                                                                       \
                        for (long column = 0; column < width; column++)                                  \
                            if (column + j >= 3 && column + j < width + 3)                               \
                                sum += ours[(column + j - 3) * channels + c]                             \
                                       * theirs[column * channels + c];                                  \
                        total[(i * 7 + j) * channels + c] += sum;                                        \
                    }                                                                                    \
            }                                                                                            \
        }                                                                                                \
    }

GRADIENT(gradient_float32, float, 16)
GRADIENT(gradient_float64, double, 8)
