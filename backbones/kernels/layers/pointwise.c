/* GELU and the backward passes of GELU and LayerNorm on a CPU; see pointwise.py.
 *
 * Tensors are (rows, columns). Compiled for the machine it runs on; without OpenMP it uses one thread.
 * Functions return 0, or 1 if they ran out of memory. */
#include "vectors.h"
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

/* Adds the sums of each thread, in the order of threads: the same bits every time. */
static void add_up(float *total, const float *parts, long columns, long stride, int threads)
{
    for (int thread = 0; thread < threads; thread++)
        for (long c = 0; c < columns; c++)
            total[c] += parts[thread * stride + c];
}

/* Normal distribution: density at x, and probability of less than x. The tail is density times a polynomial
 * in t = 1 / (1 + |x| / 4), fitted to it with a relative error of 5e-8. */
static inline Vector normal(Vector x, Vector *density)
{
    const Vector far = (Vector){0} + 13.2f, magic = (Vector){0} + 12582912.0f; /* 1.5 x 2^23 */
    Vector size = (Vector)((Integers)x & 0x7fffffff);
    size = choose(size < far, size, far);
    Vector t = 1.0f / (1.0f + 0.25f * size);
    Vector power = -0.5f * size * size;
    Vector whole = power * 1.44269504f + magic - magic; /* rounded */
    Vector rest = power - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vector e = 1.0f + rest * (1.0f + rest * (0.5f + rest * (1.66666667e-1f + rest * (4.16666667e-2f
             + rest * (8.33333333e-3f + rest * 1.38888889e-3f)))));
    e *= (Vector)((__builtin_convertvector(whole, Integers) + 127) << 23);
    static const float fitted[] = {2.665042788e-2f, -1.573981805e-1f, 3.058039808e-1f, -2.171319035e-1f,
                                   2.098239020e-1f, 2.937596240e-2f,  1.046914445e-1f, 9.837829285e-2f,
                                   9.980604937e-2f};
    Vector tail = {0};
    for (int i = 0; i < 9; i++)
        tail = tail * t + fitted[i];
    tail *= t * e;
    *density = 0.398942280f * e;
    return choose(x < 0, tail, 1.0f - tail);
}

/* GELU of x. The normal distribution's tail beyond |x| is (1 / p)^8 / 2 with a polynomial p in |x|, fitted to an
 * error of the GELU of at most 2e-7. */
static inline Vector gelu_of(Vector x)
{
    static const float fitted[] = {2.932487621e-6f, -1.674714634e-5f, 9.758187045e-5f, 1.113515632e-4f,
                                   9.806615708e-4f, 8.591632210e-3f,  4.478880118e-2f, 9.973249534e-2f, 1.0f};
    Vector size = (Vector)((Integers)x & 0x7fffffff), p = {0};
    for (int i = 0; i < 9; i++)
        p = p * size + fitted[i];
    Vector tail = 1.0f / p;
    tail *= tail;
    tail *= tail;
    tail *= 0.5f * tail;
    return x * choose(x < 0, tail, 1.0f - tail);
}

/* Writes the GELU of x plus bias to out, which may be x, and adds its squares, summed over rows, to squares. Bias
 * and squares may be null. */
int gelu(const float *x, const float *bias, float *out, float *squares, long rows, long columns, int threads)
{
    long stride = columns + LANES;
    float *parts = squares ? calloc(threads * stride, sizeof(float)) : 0;
    if (squares && !parts)
        return 1;
#pragma omp parallel num_threads(threads)
    {
        float *sums = parts ? parts + omp_get_thread_num() * stride : 0;
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++)
            for (long c = 0; c < columns; c += LANES) {
                long at = row * columns + c, left = columns - c;
                Vector value = load(x + at, left);
                if (bias)
                    value += load(bias + c, left);
                value = gelu_of(value);
                store(out + at, value, left);
                if (sums)
                    *(Vector *)(sums + c) += value * value;
            }
    }
    if (squares)
        add_up(squares, parts, columns, stride, threads);
    free(parts);
    return 0;
}

/* Overwrites x with the GELU of x plus bias, and the GELU's gradient with the gradient of x. First the GELU times
 * coefficient is added to its gradient. The gradient of x, summed over rows, is added to sums. Bias and coefficient
 * may be null. */
int gelu_backward(float *x, const float *bias, float *gradient, const float *coefficient, float *sums, long rows,
                  long columns, int threads)
{
    long stride = columns + LANES;
    float *parts = calloc(threads * stride, sizeof(float));
    if (!parts)
        return 1;
#pragma omp parallel num_threads(threads)
    {
        float *thread_sums = parts + omp_get_thread_num() * stride;
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++)
            for (long c = 0; c < columns; c += LANES) {
                float *x_at = x + row * columns + c, *gradient_at = gradient + row * columns + c;
                long left = columns - c;
                Vector density, before = load(x_at, left), grad = load(gradient_at, left);
                if (bias)
                    before += load(bias + c, left);
                Vector probability = normal(before, &density), after = before * probability;
                if (coefficient)
                    grad += after * load(coefficient + c, left);
                grad *= probability + before * density;
                store(x_at, after, left);
                store(gradient_at, grad, left);
                *(Vector *)(thread_sums + c) += grad;
            }
    }
    add_up(sums, parts, columns, stride, threads);
    free(parts);
    return 0;
}

/* LayerNorm's backward pass: writes the gradient of its input to out, adds those of its parameters to grad_weight
 * and grad_bias. */
int layer_norm_backward(const float *gradient, const float *x, const float *mean, const float *rstd,
                        const float *weight, float *out, float *grad_weight, float *grad_bias, long rows,
                        long columns, int threads)
{
    long half = columns + LANES, stride = 2 * half;
    float *parts = calloc(threads * stride, sizeof(float));
    if (!parts)
        return 1;
#pragma omp parallel num_threads(threads)
    {
        float *weight_sums = parts + omp_get_thread_num() * stride, *bias_sums = weight_sums + half;
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++) {
            const float *gradient_row = gradient + row * columns, *x_row = x + row * columns;
            Vector sum = {0}, dot = {0};
            for (long c = 0; c < columns; c += LANES) {
                long left = columns - c;
                Vector grad = load(gradient_row + c, left);
                Vector normed = (load(x_row + c, left) - mean[row]) * rstd[row];
                *(Vector *)(weight_sums + c) += grad * normed;
                *(Vector *)(bias_sums + c) += grad;
                grad *= load(weight + c, left);
                sum += grad;
                dot += grad * normed;
            }
            float mean_grad = sum_of(sum) / columns, mean_dot = sum_of(dot) / columns;
            for (long c = 0; c < columns; c += LANES) {
                long left = columns - c;
                Vector normed = (load(x_row + c, left) - mean[row]) * rstd[row];
                Vector grad = load(gradient_row + c, left) * load(weight + c, left);
                store(out + row * columns + c, (grad - mean_grad - normed * mean_dot) * rstd[row], left);
            }
        }
    }
    add_up(grad_weight, parts, columns, stride, threads);
    add_up(grad_bias, parts + half, columns, stride, threads);
    free(parts);
    return 0;
}
