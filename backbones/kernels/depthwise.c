/* Depthwise 7x7 convolutions with padding 3, on a CPU; see depthwise.py.
 *
 * Maps are (n, height, width, channels). Everything is compiled for the machine it is for; without OpenMP on
 * one thread. */
#include "vectors.h"
#include <math.h>
#include <stdlib.h>

enum { SIZE = 7, HALF = SIZE / 2 };

/* Neighbouring pixels whose sums fit into registers beside a row of weights. */
enum { PIXELS = LANES == 8 ? 6 : 8, REACH = PIXELS + SIZE - 1 };

/* Adds to the sums of PIXELS neighbours, for count channels from c on, what rows first to last of the weight
 * make of their surroundings; near points at the pixels of these. */
static inline __attribute__((always_inline)) void add_rows(Vector *sum, const float *const near[SIZE][REACH],
                                                           const float *weight, long first, long last, long c,
                                                           long count, long channels)
{
    Vector sums[PIXELS]; /* in registers */
    memcpy(sums, sum, sizeof sums);
    for (long i = first; i < last; i++) {
        Vector weights[SIZE];
        for (int j = 0; j < SIZE; j++)
            weights[j] = load(weight + (i * SIZE + j) * channels + c, count);
#pragma GCC unroll 16
        for (int at = 0; at < REACH; at++) {
            Vector value = load(near[i][at] + c, count);
#pragma GCC unroll 8
            for (int j = 0; j < SIZE; j++)
                if (at >= j && at - j < PIXELS)
                    sums[at - j] += value * weights[j];
        }
    }
    memcpy(sum, sums, sizeof sums);
}

/* LayerNorm of one pixel, in its place. */
static void normalise(float *pixel, const float *weight, const float *bias, float eps, long channels)
{
    Vector all = {0}, squares = {0};
    for (long c = 0; c < channels; c += LANES)
        all += load(pixel + c, channels - c);
    float mean = sum_of(all) / channels;
    long rest = channels - channels % LANES;
    for (long c = 0; c < rest; c += LANES) {
        Vector centred = load(pixel + c, LANES) - mean;
        squares += centred * centred;
    }
    float sum = sum_of(squares);
    for (long c = rest; c < channels; c++)
        sum += (pixel[c] - mean) * (pixel[c] - mean);
    float rstd = 1.0f / sqrtf(sum / channels + eps);
    for (long c = 0; c < channels; c += LANES) {
        long left = channels - c;
        Vector normed = (load(pixel + c, left) - mean) * rstd;
        store(pixel + c, normed * load(weight + c, left) + load(bias + c, left), left);
    }
}

/* The convolution of x into out. The weight is (7, 7, channels); bias, plus (a map that is added), and the
 * weight of a LayerNorm that follows may be null. */
void depthwise(const float *x, const float *weight, const float *bias, const float *plus, float *out,
               const float *norm_weight, const float *norm_bias, float eps, long n, long height, long width,
               long channels, int threads)
{
    long parts = (width + PIXELS - 1) / PIXELS;
    float *zeros = calloc(channels, sizeof(float)); /* a pixel of the padding */
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long index = 0; index < n * height * parts; index++) {
        long line = index / parts, row = line % height, column = index % parts * PIXELS;
        long count = width - column < PIXELS ? width - column : PIXELS, offset = (line * width + column) * channels;
        long first = row < HALF ? HALF - row : 0, last = height - row <= HALF ? height - row + HALF : SIZE;
        const float *near[SIZE][REACH];
        for (long i = first; i < last; i++)
            for (long at = 0, x_column = column - HALF; at < REACH; at++, x_column++)
                near[i][at] = x_column < 0 || x_column >= width
                                  ? zeros
                                  : x + ((line + i - HALF) * width + x_column) * channels;
        for (long c = 0; c < channels; c += LANES) {
            long left = channels - c;
            Vector sum[PIXELS], begin = {0};
            if (bias)
                begin = load(bias + c, left);
            for (int pixel = 0; pixel < PIXELS; pixel++)
                sum[pixel] = begin;
            if (left >= LANES) /* the same with a count that the compiler knows */
                add_rows(sum, near, weight, first, last, c, LANES, channels);
            else
                add_rows(sum, near, weight, first, last, c, left, channels);
            for (long pixel = 0; pixel < count; pixel++) {
                long at = offset + pixel * channels + c;
                store(out + at, plus ? sum[pixel] + load(plus + at, left) : sum[pixel], left);
            }
        }
        if (norm_weight)
            for (long pixel = 0; pixel < count; pixel++)
                normalise(out + offset + pixel * channels, norm_weight, norm_bias, eps, channels);
    }
    free(zeros);
}

/* Gradient of the weight; total is (7, 7, channels). A vector of channels after the other goes over an image: its part of seven rows stays in the first-level cache,
 * and the sums of a row in registers. */
#define GRADIENT(NAME, T, WIDTH)                                                                              \
    typedef T NAME##_vector __attribute__((vector_size(WIDTH * sizeof(T)), aligned(sizeof(T))));             \
                                                                                                             \
    /* Columns from first to last of one row, near the left or right border. */                              \
    static inline void NAME##_edge(const T *ours, const T *theirs, NAME##_vector *sum, long first, long last, \
                                   long width, long channels)                                                \
    {                                                                                                        \
        for (long column = first; column < last; column++)                                                   \
            for (long j = 0; j < 7; j++)                                                                     \
                if (column + j >= 3 && column + j < width + 3)                                               \
                    sum[j] += *(const NAME##_vector *)(ours + (column + j - 3) * channels)                   \
                              * *(const NAME##_vector *)(theirs + column * channels);                        \
    }                                                                                                        \
                                                                                                             \
    /* One vector of channels of two rows that meet. */                                                      \
    static inline void NAME##_rows(const T *ours, const T *theirs, T *total, long width, long channels)      \
    {                                                                                                        \
        typedef NAME##_vector V;                                                                             \
        long left = width < 3 ? width : 3, right = width - 3 > left ? width - 3 : left;                      \
        V sum[7];                                                                                            \
        memset(sum, 0, sizeof sum);                                                                          \
        NAME##_edge(ours, theirs, sum, 0, left, width, channels);                                            \
        V s0 = sum[0], s1 = sum[1], s2 = sum[2], s3 = sum[3], s4 = sum[4], s5 = sum[5], s6 = sum[6];         \
        const T *near = ours + (left - 3) * channels;                                                        \
        for (long column = left; column < right; column++, near += channels) {                               \
            V grad = *(const V *)(theirs + column * channels);                                               \
            s0 += *(const V *)(near) * grad;                                                                 \
            s1 += *(const V *)(near + channels) * grad;                                                      \
            s2 += *(const V *)(near + 2 * channels) * grad;                                                  \
            s3 += *(const V *)(near + 3 * channels) * grad;                                                  \
            s4 += *(const V *)(near + 4 * channels) * grad;                                                  \
            s5 += *(const V *)(near + 5 * channels) * grad;                                                  \
            s6 += *(const V *)(near + 6 * channels) * grad;                                                  \
        }                                                                                                    \
        sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3, sum[4] = s4, sum[5] = s5, sum[6] = s6;           \
        NAME##_edge(ours, theirs, sum, right, width, width, channels);                                       \
        for (long j = 0; j < 7; j++)                                                                         \
            *(V *)(total + j * channels) += sum[j];                                                          \
    }                                                                                                        \
                                                                                                             \
    void NAME(const T *x, const T *g, T *total, long n, long height, long width, long channels, int threads) \
    {                                                                                                        \
        long row_size = width * channels, vectors = channels / WIDTH, rest = vectors * WIDTH;                \
        _Pragma("omp parallel for schedule(static) num_threads(threads)")                                    \
        for (long c = 0; c < rest; c += WIDTH)                                                               \
            for (long line = 0; line < n * height; line++) {                                                 \
                long row = line % height;                                                                    \
                for (long i = row < 3 ? 3 - row : 0; i < 7 && row + i < height + 3; i++)                     \
                    NAME##_rows(x + (line + i - 3) * row_size + c, g + line * row_size + c,                  \
                                total + i * 7 * channels + c, width, channels);                              \
            }                                                                                                \
        for (long c = rest; c < channels; c++)                                                               \
            for (long line = 0; line < n * height; line++)                                                   \
                for (long i = 0, row = line % height; i < 7; i++)                                            \
                    for (long j = 0; j < 7 && row + i >= 3 && row + i < height + 3; j++) {                   \
                        const T *ours = x + (line + i - 3) * row_size + c, *theirs = g + line * row_size + c; \
                        T sum = 0;                                                                           \
                        for (long column = 0; column < width; column++)                                      \
                            if (column + j >= 3 && column + j < width + 3)                                   \
                                sum += ours[(column + j - 3) * channels] * theirs[column * channels];        \
                        total[(i * 7 + j) * channels + c] += sum;                                            \
                    }                                                                                        \
    }

GRADIENT(gradient_float32, float, LANES)
GRADIENT(gradient_float64, double, LANES / 2)
