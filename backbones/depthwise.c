/* Gradient of the weight of a depthwise 7x7 convolution with padding 3; see depthwise.py.
 *
 * x and g are (n, height, width, channels), total is (7, 7, channels). A vector of channels after the
 * other goes over an image: its part of seven rows stays in the first-level cache, and the sums of a row
 * in registers. */
#include <string.h>

#define GRADIENT(NAME, T, LANES)                                                                           \
    typedef T NAME##_vector __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T))));           \
                                                                                                           \
    /* Columns from first to last of one row, near the left or right border. */                            \
    static inline void NAME##_edge(const T *ours, const T *theirs, NAME##_vector *sum, long first, long last,\
                                   long width, long channels)                                              \
    {                                                                                                      \
        for (long column = first; column < last; column++)                                                 \
            for (long j = 0; j < 7; j++)                                                                   \
                if (column + j >= 3 && column + j < width + 3)                                             \
                    sum[j] += *(const NAME##_vector *)(ours + (column + j - 3) * channels)                 \
                              * *(const NAME##_vector *)(theirs + column * channels);                      \
    }                                                                                                      \
                                                                                                           \
    void NAME(const T *x, const T *g, T *total, long n, long height, long width, long channels, long begin,\
              long end)                                                                                    \
    {                                                                                                      \
        typedef NAME##_vector V;                                                                           \
        long row_size = width * channels, left = width < 3 ? width : 3;                                    \
        long right = width - 3 > left ? width - 3 : left;                                                  \
        for (long image = 0; image < n; image++) {                                                         \
            long c = begin;                                                                                \
            for (; c + LANES <= end; c += LANES)                                                           \
                for (long row = 0; row < height; row++) {                                                  \
                    const T *theirs = g + (image * height + row) * row_size + c;                           \
                    for (long i = row < 3 ? 3 - row : 0; i < 7 && row + i < height + 3; i++) {             \
                        const T *ours = x + (image * height + row + i - 3) * row_size + c;                 \
                        V sum[7];                                                                          \
                        memset(sum, 0, sizeof sum);                                                        \
                        NAME##_edge(ours, theirs, sum, 0, left, width, channels);                          \
                        V s0 = sum[0], s1 = sum[1], s2 = sum[2], s3 = sum[3];                              \
                        V s4 = sum[4], s5 = sum[5], s6 = sum[6];                                           \
                        const T *near = ours + (left - 3) * channels;                                      \
                        for (long column = left; column < right; column++, near += channels) {             \
                            V grad = *(const V *)(theirs + column * channels);                             \
                            s0 += *(const V *)(near) * grad;                                               \
                            s1 += *(const V *)(near + channels) * grad;                                    \
                            s2 += *(const V *)(near + 2 * channels) * grad;                                \
                            s3 += *(const V *)(near + 3 * channels) * grad;                                \
                            s4 += *(const V *)(near + 4 * channels) * grad;                                \
                            s5 += *(const V *)(near + 5 * channels) * grad;                                \
                            s6 += *(const V *)(near + 6 * channels) * grad;                                \
                        }                                                                                  \
                        sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3;                                \
                        sum[4] = s4, sum[5] = s5, sum[6] = s6;                                             \
                        NAME##_edge(ours, theirs, sum, right, width, width, channels);                     \
                        for (long j = 0; j < 7; j++)                                                       \
                            *(V *)(total + (i * 7 + j) * channels + c) += sum[j];                          \
                    }                                                                                      \
                }                                                                                          \
            for (; c < end; c++)                                                                           \
                for (long row = 0; row < height; row++)                                                    \
                    for (long i = row < 3 ? 3 - row : 0; i < 7 && row + i < height + 3; i++)               \
                        for (long j = 0; j < 7; j++) {                                                     \
                            const T *theirs = g + (image * height + row) * row_size + c;                   \
                            const T *ours = x + (image * height + row + i - 3) * row_size + c;             \
                            T sum = 0;                                                                     \
                            for (long column = 0; column < width; column++)                                \
                                if (column + j >= 3 && column + j < width + 3)                             \
                                    sum += ours[(column + j - 3) * channels] * theirs[column * channels];  \
                            total[(i * 7 + j) * channels + c] += sum;                                      \
                        }                                                                                  \
        }                                                                                                  \
    }

GRADIENT(gradient_float32, float, 16)
GRADIENT(gradient_float64, double, 8)
