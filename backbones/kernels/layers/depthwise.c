/* Depthwise 7x7 convolutions with padding 3, on a CPU; see depthwise.py.
 *
 * Maps are (n, height, width, channels). Compiled for the machine it runs on; without OpenMP it uses one
 * thread. Functions return 0, or 1 if they ran out of memory. */
#include "vectors.h"
#include <math.h>
#include <stdlib.h>

enum { SIZE = 7, HALF = SIZE / 2 };

/* Number of neighbouring pixels whose sums fit into registers beside a row of weights, and of the pixels that
 * these need. */
enum { PIXELS = LANES == 8 ? 6 : 8, REACH = PIXELS + SIZE - 1 };

/* Adds the products of rows first to last of the weight, for count channels from c on, to the sums of PIXELS
 * neighbours; near points at the input's pixels. */
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

/* LayerNorm of one pixel, in place. */
static void normalise(float *pixel, const float *weight, const float *bias, float eps, long channels)
{
    Vector total = {0}, squares = {0};
    for (long c = 0; c < channels; c += LANES)
        total += load(pixel + c, channels - c);
    float mean = sum_of(total) / channels;
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

/* Writes the convolution of x to out. The weight is (7, 7, channels); bias, plus (a map that is added), and the
 * weight of a LayerNorm that follows may be null. */
int depthwise(const float *x, const float *weight, const float *bias, const float *plus, float *out,
               const float *norm_weight, const float *norm_bias, float eps, long n, long height, long width,
               long channels, int threads)
{
    long parts = (width + PIXELS - 1) / PIXELS;
    float *zeros = calloc(channels, sizeof(float)); /* a pixel of the padding */
    if (!zeros)
        return 1;
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
            Vector sum[PIXELS], initial = {0};
            if (bias)
                initial = load(bias + c, left);
            for (int pixel = 0; pixel < PIXELS; pixel++)
                sum[pixel] = initial;
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
    return 0;
}

#define NAME weight_gradient_float32
#define NUMBER float
#define WIDTH LANES
#include "depthwise_gradient.h"

#define NAME weight_gradient_float64
#define NUMBER double
#define WIDTH (LANES / 2)
#include "depthwise_gradient.h"
