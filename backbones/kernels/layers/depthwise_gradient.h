/* Weight gradient of a depthwise 7x7 convolution with padding 3, for one type of numbers.
 *
 * Include it once for each type, with these macros: NAME of the function, NUMBER type, WIDTH numbers in a
 * vector. Maps are (n, height, width, channels), the gradient is (7, 7, channels).
 *
 * One vector of channels after the other goes over all images, so that its part of seven rows stays in the
 * first-level cache and the sums of a row in registers. */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define VECTOR JOIN(NAME, _vector)
#define ADD_BORDER JOIN(NAME, _add_border)
#define ADD_ROW JOIN(NAME, _add_row)
#define LOAD(from) (*(const VECTOR *)(from))

typedef NUMBER VECTOR __attribute__((vector_size(WIDTH * sizeof(NUMBER)), aligned(sizeof(NUMBER))));

/* Columns first to last of one row, near the left or right border. */
static inline void ADD_BORDER(const NUMBER *x, const NUMBER *grad, VECTOR *sum, long first, long last, long width,
                              long channels)
{
    for (long column = first; column < last; column++)
        for (long j = 0; j < 7; j++)
            if (column + j >= 3 && column + j < width + 3)
                sum[j] += LOAD(x + (column + j - 3) * channels) * LOAD(grad + column * channels);
}

/* One vector of channels of a row of x and the row of the output's gradient that it contributes to. */
static inline void ADD_ROW(const NUMBER *x, const NUMBER *grad, NUMBER *total, long width, long channels)
{
    long left = width < 3 ? width : 3, right = width - 3 > left ? width - 3 : left;
    VECTOR sum[7];
    memset(sum, 0, sizeof sum);
    ADD_BORDER(x, grad, sum, 0, left, width, channels);
    VECTOR s0 = sum[0], s1 = sum[1], s2 = sum[2], s3 = sum[3], s4 = sum[4], s5 = sum[5], s6 = sum[6];
    const NUMBER *near = x + (left - 3) * channels;
    for (long column = left; column < right; column++, near += channels) {
        VECTOR g = LOAD(grad + column * channels);
        s0 += LOAD(near) * g;
        s1 += LOAD(near + channels) * g;
        s2 += LOAD(near + 2 * channels) * g;
        s3 += LOAD(near + 3 * channels) * g;
        s4 += LOAD(near + 4 * channels) * g;
        s5 += LOAD(near + 5 * channels) * g;
        s6 += LOAD(near + 6 * channels) * g;
    }
    sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3, sum[4] = s4, sum[5] = s5, sum[6] = s6;
    ADD_BORDER(x, grad, sum, right, width, width, channels);
    for (long j = 0; j < 7; j++)
        *(VECTOR *)(total + j * channels) += sum[j];
}

int NAME(const NUMBER *x, const NUMBER *grad, NUMBER *total, long n, long height, long width, long channels,
         int threads)
{
    long row_size = width * channels, in_vectors = channels / WIDTH * WIDTH;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long c = 0; c < in_vectors; c += WIDTH)
        for (long line = 0; line < n * height; line++) {
            long row = line % height;
            for (long i = row < 3 ? 3 - row : 0; i < 7 && row + i < height + 3; i++)
                ADD_ROW(x + (line + i - 3) * row_size + c, grad + line * row_size + c, total + i * 7 * channels + c,
                        width, channels);
        }
    for (long c = in_vectors; c < channels; c++)
        for (long line = 0; line < n * height; line++)
            for (long i = 0, row = line % height; i < 7; i++)
                for (long j = 0; j < 7 && row + i >= 3 && row + i < height + 3; j++) {
                    const NUMBER *x_row = x + (line + i - 3) * row_size + c, *grad_row = grad + line * row_size + c;
                    NUMBER sum = 0;
                    for (long column = 0; column < width; column++)
                        if (column + j >= 3 && column + j < width + 3)
                            sum += x_row[(column + j - 3) * channels] * grad_row[column * channels];
                    total[(i * 7 + j) * channels + c] += sum;
                }
    return 0;
}

#undef NAME
#undef NUMBER
#undef WIDTH
#undef JOIN_
#undef JOIN
#undef VECTOR
#undef ADD_BORDER
#undef ADD_ROW
#undef LOAD
