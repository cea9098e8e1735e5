// Multi-scale deformable attention on NVIDIA GPUs, forward and backward.
//
// Compiled at run time by NVRTC, without headers, for one value type and one head size at a time
// (see cuda.py); compiled as plain C++ by the tests, which run it thread by thread.
//
// A block works on neighbouring queries of one image and head: their points lie close together, so
// what one reads is in the cache for the next. Within a warp, a group of threads (the smallest power
// of two that covers a head's channels 16 bytes at a time) belongs to a query. First all threads of
// the warp locate points, one each, and leave them in shared memory; then each group gathers its
// query's points, each thread its 16 bytes of a row. So the arithmetic of a point is done once, not
// once per channel, and every load is as wide as loads can be. Nothing is shared between warps, so
// no warp waits for another.
//
// Backward, a point's three gradients are summed across the group by shuffles, and the gradient of
// value is added to memory in float32, four channels at a time: one operation from sm_90 on, which
// has vector atomics. The order of these additions, and with it the last bit, differs between runs.
//
// Dimensions: B images, S positions of all levels, Q queries, M heads, D channels of a head,
// L levels, P points, K = L * P samples of a query and head. Locations are (x, y), rows of a map
// run along x.

#ifndef MAX_LEVELS
#define MAX_LEVELS 8
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define VECTOR_ATOMICS
#endif

namespace mask2kan {

constexpr int kLanes = 32;                   // threads of a warp
constexpr int kWarps = 4;                    // warps of a block
constexpr int kStagedPoints = 256;           // of a warp, in shared memory: 8 KiB
constexpr unsigned kWholeWarp = 0xffffffff;  // of its threads, as a mask

// Sizes, by value into every kernel: constant memory, no copy to the GPU before the launch.
struct Level {
  int height;
  int width;
  int start;  // among S
};

struct Sizes {
  int positions;  // S
  int queries;    // Q
  int heads;      // M
  int levels;     // L
  int points;     // P
  Level level[MAX_LEVELS];
};

// ---- Value types: how numbers lie in 32-bit words ----------------------------------------------
// Own types, because cuda_fp16.h and cuda_bf16.h would have to be found on the user's machine.

struct Half {
  unsigned short bits;
};

struct BFloat16 {
  unsigned short bits;
};

template <typename T>
struct Words;

template <>
struct Words<float> {
  static constexpr int numbers = 1;
  __device__ static void widen(unsigned word, float* wide) { wide[0] = __uint_as_float(word); }
  __device__ static unsigned narrow(const float* wide) { return __float_as_uint(wide[0]); }
};

template <>
struct Words<BFloat16> {
  static constexpr int numbers = 2;

  // A bfloat16 is the upper half of a float32.
  __device__ static void widen(unsigned word, float* wide) {
    wide[0] = __uint_as_float(word << 16);
    wide[1] = __uint_as_float(word & 0xffff0000u);
  }

  __device__ static unsigned narrow(const float* wide) {
    return round(wide[0]) >> 16 | (round(wide[1]) & 0xffff0000u);
  }

  // The upper half is the nearest bfloat16, ties to even; a NaN stays one.
  __device__ static unsigned round(float wide) {
    const unsigned bits = __float_as_uint(wide);
    return wide == wide ? bits + 0x7fff + ((bits >> 16) & 1) : 0x7fff0000u;
  }
};

template <>
struct Words<Half> {
  static constexpr int numbers = 2;

  // Without cuda_fp16.h, PTX is the only way to the hardware's conversion.
  __device__ static void widen(unsigned word, float* wide) {
#ifdef __CUDA_ARCH__
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2;"
        "  cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
        : "=f"(wide[0]), "=f"(wide[1])
        : "r"(word));
#else
    wide[0] = half_bits_to_float(word & 0xffffu);
    wide[1] = half_bits_to_float(word >> 16);
#endif
  }

  __device__ static unsigned narrow(const float* wide) {
#ifdef __CUDA_ARCH__
    unsigned word;
    asm("{ .reg .b16 low, high; cvt.rn.f16.f32 low, %1; cvt.rn.f16.f32 high, %2;"
        "  mov.b32 %0, {low, high}; }"
        : "=r"(word)
        : "f"(wide[0]), "f"(wide[1]));
    return word;
#else
    return float_to_half_bits(wide[0]) | unsigned(float_to_half_bits(wide[1])) << 16;
#endif
  }
};

// ---- How a warp divides the channels of its queries ---------------------------------------------

__device__ constexpr int power_of_two_from(int count) {
  int power = 1;
  while (power < count) power *= 2;
  return power;
}

template <typename T, int D>
struct Layout {
  static constexpr int vector = 16 / sizeof(T);              // channels of a thread
  static constexpr int slices = D / vector;                  // threads a query needs
  static constexpr int group = power_of_two_from(slices);    // threads a query gets
  static constexpr int queries = kLanes / group;             // queries of a warp
  static constexpr int most = kStagedPoints / queries;       // points of a query that fit
  static constexpr int chunk = most < 16 ? most : 16;        // staged at a time
  static_assert(D % vector == 0 && slices <= kLanes, "a head is 16 bytes per thread");
};

// What one thread moves at a time.
template <typename T>
struct alignas(16) Slice {
  static constexpr int words = 4;
  static constexpr int numbers = Words<T>::numbers;  // in a word
  static constexpr int channels = words * numbers;
  unsigned word[words];

  __device__ static Slice load(const T* address) {
    return *reinterpret_cast<const Slice*>(address);
  }

  __device__ void store(T* address) const { *reinterpret_cast<Slice*>(address) = *this; }

  __device__ void widen(float* wide) const {
#pragma unroll
    for (int w = 0; w < words; ++w) Words<T>::widen(word[w], wide + w * numbers);
  }

  __device__ static Slice narrow(const float* wide) {
    Slice slice;
#pragma unroll
    for (int w = 0; w < words; ++w) slice.word[w] = Words<T>::narrow(wide + w * numbers);
    return slice;
  }
};

// sum += weight * slice
template <typename T>
__device__ inline void accumulate(float weight, const Slice<T>& slice, float* sum) {
  float wide[Slice<T>::channels];
  slice.widen(wide);
#pragma unroll
  for (int c = 0; c < Slice<T>::channels; ++c) sum[c] = fmaf(weight, wide[c], sum[c]);
}

// The sum of a thread's own channels; sum_over_group adds the others'.
template <typename T>
__device__ inline float dot(const float* factors, const Slice<T>& slice) {
  float wide[Slice<T>::channels];
  slice.widen(wide);
  float sum = 0.f;
#pragma unroll
  for (int c = 0; c < Slice<T>::channels; ++c) sum = fmaf(factors[c], wide[c], sum);
  return sum;
}

// ---- Where a point lies --------------------------------------------------------------------------

// Which of the four pixels around a point exist.
enum Corner : unsigned { kUpperLeft = 1, kUpperRight = 2, kLowerLeft = 4, kLowerRight = 8 };

struct alignas(16) Point {
  int row;            // of the upper left pixel among S; only meaningful where a corner exists
  int width;          // rows from a pixel to the one below it
  unsigned corners;   // those that exist
  float attention;
  float x;            // right of the upper left pixel's centre, 0 to 1
  float y;            // below it
};

// In pixels a location is location * size - 0.5. The fraction comes from the location itself, not
// from the difference of two large numbers: float32 pixels of a map 256 wide have steps of 1e-5.
// Outside the map (infinity included) no corner exists, and the point reads zero; a NaN location,
// or a NaN weight out there, reads the map's first pixel with the weight NaN.
__device__ inline Point locate(float2 location, float attention, const Level& level) {
  const float width = static_cast<float>(level.width);
  const float height = static_cast<float>(level.height);
  const float column = fmaf(location.x, width, -0.5f);
  const float line = fmaf(location.y, height, -0.5f);
  Point point{level.start, level.width, 0, attention, 0.f, 0.f};
  if (column > -1.f && line > -1.f && column < width && line < height) {
    const float left = floorf(column);
    const float upper = floorf(line);
    point.x = fmaf(location.x, width, -0.5f - left);
    point.y = fmaf(location.y, height, -0.5f - upper);
    const int first_column = static_cast<int>(left);
    const int first_line = static_cast<int>(upper);
    point.row = level.start + first_line * level.width + first_column;
    const unsigned in_left = first_column >= 0 ? kUpperLeft | kLowerLeft : 0;
    const unsigned in_right = first_column + 1 < level.width ? kUpperRight | kLowerRight : 0;
    const unsigned in_upper = first_line >= 0 ? kUpperLeft | kUpperRight : 0;
    const unsigned in_lower = first_line + 1 < level.height ? kLowerLeft | kLowerRight : 0;
    point.corners = (in_left | in_right) & (in_upper | in_lower);
  } else if (column != column || line != line || attention != attention) {
    point.attention = attention + column + line;
    point.corners = kUpperLeft;
  }
  return point;
}

// Bilinear weights times the attention weight; by subtraction, three products in all.
struct Weights {
  float upper_left, upper_right, lower_left, lower_right;
};

__device__ inline Weights corner_weights(const Point& point) {
  const float lower = point.attention * point.y;
  const float upper = point.attention - lower;
  const float upper_right = upper * point.x;
  const float lower_right = lower * point.x;
  return {upper - upper_right, upper_right, lower - lower_right, lower_right};
}

// As const as T is.
template <typename T, typename U>
struct SameConst {
  using type = U;
};

template <typename T, typename U>
struct SameConst<const T, U> {
  using type = const U;
};

// Where a thread's slice of the four pixels around a point lies. Distances are in bytes and 64 bits
// wide: an image may have more than 2^31 of them. Only what `corners` names may be touched.
template <typename T>
struct Pixels {
  T* upper;
  T* lower;
  int stride;  // in bytes, from a position to the next

  // `map` is the slice of position 0.
  __device__ Pixels(T* map, int stride, const Point& point)
      : upper(step(map, point.row, stride)), lower(step(upper, point.width, stride)), stride(stride) {}

  __device__ T* upper_right() const { return step(upper, 1, stride); }
  __device__ T* lower_right() const { return step(lower, 1, stride); }

  __device__ static T* step(T* address, int rows, int stride) {
    using Byte = typename SameConst<T, char>::type;
    return reinterpret_cast<T*>(reinterpret_cast<Byte*>(address) +
                                static_cast<long long>(rows) * stride);
  }
};

// ---- Where a thread stands ------------------------------------------------------------------------

template <typename T, int D>
struct Place {
  int lane, warp;
  int member;       // of the group
  int group;        // of the warp: which of its queries
  int head;
  int first_query;  // of the warp
  long long image;
  bool idle;        // the whole warp has no query

  // Blocks of the same queries and other heads follow one another: they read the same locations.
  __device__ explicit Place(const Sizes& sizes) {
    using L = Layout<T, D>;
    constexpr int block_queries = kWarps * L::queries;
    const int tiles = (sizes.queries + block_queries - 1) / block_queries;
    lane = threadIdx.x % kLanes;
    warp = threadIdx.x / kLanes;
    member = lane % L::group;
    group = lane / L::group;
    head = blockIdx.x % sizes.heads;
    const unsigned rest = blockIdx.x / sizes.heads;
    first_query = static_cast<int>(rest % tiles) * block_queries + warp * L::queries;
    image = rest / tiles;
    idle = first_query >= sizes.queries;
  }

  __device__ int query() const { return first_query + group; }
  __device__ bool has_query(const Sizes& sizes) const { return query() < sizes.queries; }
  // Groups are rounded up to a power of two: some threads may have no channels.
  __device__ bool has_slice() const { return member < Layout<T, D>::slices; }

  // The row of an (image, query) and this head in (B, Q, M, ...) tensors.
  __device__ long long row(const Sizes& sizes, int query) const {
    return (image * sizes.queries + query) * sizes.heads + head;
  }
  // The head's channel 0 at position 0 in a (B, S, M, D) tensor.
  __device__ long long map(const Sizes& sizes) const {
    return (image * sizes.positions * sizes.heads + head) * D;
  }
};

// A warp's points, `chunk` of each query at a time.
template <typename T, int D>
using Staged = Point[Layout<T, D>::queries][Layout<T, D>::chunk];

// Visit `count` samples of every query of the warp, from `begin` on, one per thread:
// visit(staged point, row of the query and head, sample, has the query).
template <typename T, int D, typename Visit>
__device__ inline void each_staged(const Place<T, D>& place, const Sizes& sizes,
                                   Staged<T, D>& staged, int begin, int count, Visit visit) {
  for (int i = place.lane; i < Layout<T, D>::queries * count; i += kLanes) {
    const int group = i / count;
    const int k = i - group * count;
    const int query = place.first_query + group;
    const bool exists = query < sizes.queries;
    visit(staged[group][k], place.row(sizes, query), begin + k, exists);
  }
}

template <typename T, int D>
__device__ inline void stage(const Place<T, D>& place, const Sizes& sizes, Staged<T, D>& staged,
                             const float2* locations, const float* weights, int begin, int count) {
  const int samples = sizes.levels * sizes.points;
  each_staged<T, D>(place, sizes, staged, begin, count,
                    [&](Point& point, long long row, int sample, bool exists) {
                      if (!exists) {
                        point = Point{0, 0, 0, 0.f, 0.f, 0.f};
                        return;
                      }
                      const long long at = row * samples + sample;
                      const Level& level = sizes.level[sample / sizes.points];
                      point = locate(locations[at], weights[at], level);
                    });
}

// ---- Forward ---------------------------------------------------------------------------------------

// value (B, S, M, D), locations (B, Q, M, L, P) pairs, weights (B, Q, M, L, P), output (B, Q, M, D).
template <typename T, int D>
__device__ inline void forward(const T* __restrict__ value, const float2* __restrict__ locations,
                               const float* __restrict__ weights, T* __restrict__ output,
                               const Sizes& sizes) {
  using L = Layout<T, D>;
  __shared__ Staged<T, D> all_staged[kWarps];
  const Place<T, D> place(sizes);
  if (place.idle) return;
  Staged<T, D>& staged = all_staged[place.warp];
  const T* map = value + place.map(sizes) + place.member * L::vector;
  const int stride = sizes.heads * D * static_cast<int>(sizeof(T));
  const int samples = sizes.levels * sizes.points;

  float sum[L::vector] = {};
  for (int begin = 0; begin < samples; begin += L::chunk) {
    const int count = min(L::chunk, samples - begin);
    stage<T, D>(place, sizes, staged, locations, weights, begin, count);
    __syncwarp();  // points are read by other threads than those that located them
    if (place.has_slice()) {
      // Two points at a time: eight loads in flight, without the registers that more would take.
#pragma unroll 2
      for (int k = 0; k < count; ++k) {
        const Point point = staged[place.group][k];
        const Pixels<const T> pixels(map, stride, point);
        const Weights weight = corner_weights(point);
        // All four loads are issued before the first is used, so that they wait together. Corners
        // outside are skipped rather than read as zero: they may lie outside the tensor.
        Slice<T> upper_left, upper_right, lower_left, lower_right;
        if (point.corners & kUpperLeft) upper_left = Slice<T>::load(pixels.upper);
        if (point.corners & kUpperRight) upper_right = Slice<T>::load(pixels.upper_right());
        if (point.corners & kLowerLeft) lower_left = Slice<T>::load(pixels.lower);
        if (point.corners & kLowerRight) lower_right = Slice<T>::load(pixels.lower_right());
        if (point.corners & kUpperLeft) accumulate(weight.upper_left, upper_left, sum);
        if (point.corners & kUpperRight) accumulate(weight.upper_right, upper_right, sum);
        if (point.corners & kLowerLeft) accumulate(weight.lower_left, lower_left, sum);
        if (point.corners & kLowerRight) accumulate(weight.lower_right, lower_right, sum);
      }
    }
    __syncwarp();  // before the next chunk overwrites them
  }
  if (place.has_slice() && place.has_query(sizes)) {
    T* address = output + place.row(sizes, place.query()) * D + place.member * L::vector;
    Slice<T>::narrow(sum).store(address);
  }
}

// ---- Backward --------------------------------------------------------------------------------------

__device__ inline void add(float* address, float weight, const float4& amount) {
  const float4 part = make_float4(weight * amount.x, weight * amount.y, weight * amount.z,
                                  weight * amount.w);
#ifdef VECTOR_ATOMICS
  atomicAdd(reinterpret_cast<float4*>(address), part);
#else
  atomicAdd(address, part.x);
  atomicAdd(address + 1, part.y);
  atomicAdd(address + 2, part.z);
  atomicAdd(address + 3, part.w);
#endif
}

// Butterfly: every thread of the group ends with the sum. All of the warp must take part.
template <int Group>
__device__ inline float sum_over_group(float value) {
#pragma unroll
  for (int step = 1; step < Group; step *= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}

// The gradient of the output that a thread spreads over value's: four channels in one addition and,
// so that a group's additions lie side by side, in another order than the slices it loads.
template <typename T, int D>
struct Spread {
  static constexpr int quads = Layout<T, D>::vector / 4;
  float4 amount[quads];
  bool exists[quads];
  int channel[quads];

  __device__ Spread(const T* grad_row, int member, bool has_query) {
#pragma unroll
    for (int i = 0; i < quads; ++i) {
      channel[i] = 4 * (member + i * Layout<T, D>::group);
      exists[i] = has_query && channel[i] < D;
      amount[i] = make_float4(0.f, 0.f, 0.f, 0.f);
      if (exists[i]) {
        const unsigned* word = reinterpret_cast<const unsigned*>(grad_row + channel[i]);
        float wide[4];
#pragma unroll
        for (int c = 0; c < 4; c += Words<T>::numbers) {
          Words<T>::widen(word[c / Words<T>::numbers], wide + c);
        }
        amount[i] = make_float4(wide[0], wide[1], wide[2], wide[3]);
      }
    }
  }

  // `map` is channel 0 of position 0 in the gradient of value.
  __device__ void over(float* map, int stride, const Point& point) const {
    const Weights weight = corner_weights(point);
#pragma unroll
    for (int i = 0; i < quads; ++i) {
      if (!exists[i]) continue;
      const Pixels<float> pixels(map + channel[i], stride, point);
      if (point.corners & kUpperLeft) add(pixels.upper, weight.upper_left, amount[i]);
      if (point.corners & kUpperRight) add(pixels.upper_right(), weight.upper_right, amount[i]);
      if (point.corners & kLowerLeft) add(pixels.lower, weight.lower_left, amount[i]);
      if (point.corners & kLowerRight) add(pixels.lower_right(), weight.lower_right, amount[i]);
    }
  }
};

// grad_output (B, Q, M, D); grad_value (B, S, M, D) float32, zeros before; grad_locations and
// grad_weights like locations and weights.
template <typename T, int D>
__device__ inline void backward(const T* __restrict__ value, const float2* __restrict__ locations,
                                const float* __restrict__ weights,
                                const T* __restrict__ grad_output, float* __restrict__ grad_value,
                                float2* __restrict__ grad_locations,
                                float* __restrict__ grad_weights, const Sizes& sizes) {
  using L = Layout<T, D>;
  __shared__ Staged<T, D> all_staged[kWarps];
  const Place<T, D> place(sizes);
  if (place.idle) return;
  Staged<T, D>& staged = all_staged[place.warp];
  const int stride = sizes.heads * D * static_cast<int>(sizeof(T));
  const int grad_stride = sizes.heads * D * static_cast<int>(sizeof(float));
  const int samples = sizes.levels * sizes.points;
  const bool works = place.has_slice() && place.has_query(sizes);

  const T* map = value + place.map(sizes) + place.member * L::vector;
  float* grad_map = grad_value + place.map(sizes);
  const T* grad_row = grad_output + place.row(sizes, place.query()) * D;
  float grad[L::vector] = {};
  if (works) Slice<T>::load(grad_row + place.member * L::vector).widen(grad);
  const Spread<T, D> spread(grad_row, place.member, place.has_query(sizes));

  for (int begin = 0; begin < samples; begin += L::chunk) {
    const int count = min(L::chunk, samples - begin);
    stage<T, D>(place, sizes, staged, locations, weights, begin, count);
    __syncwarp();
    // Every thread takes part in the sums, with zeros where it has no channels.
    for (int k = 0; k < count; ++k) {
      const Point point = staged[place.group][k];
      float upper_left = 0.f, upper_right = 0.f, lower_left = 0.f, lower_right = 0.f;
      if (works) {
        const Pixels<const T> pixels(map, stride, point);
        Slice<T> slice[4];
        if (point.corners & kUpperLeft) slice[0] = Slice<T>::load(pixels.upper);
        if (point.corners & kUpperRight) slice[1] = Slice<T>::load(pixels.upper_right());
        if (point.corners & kLowerLeft) slice[2] = Slice<T>::load(pixels.lower);
        if (point.corners & kLowerRight) slice[3] = Slice<T>::load(pixels.lower_right());
        if (point.corners & kUpperLeft) upper_left = dot(grad, slice[0]);
        if (point.corners & kUpperRight) upper_right = dot(grad, slice[1]);
        if (point.corners & kLowerLeft) lower_left = dot(grad, slice[2]);
        if (point.corners & kLowerRight) lower_right = dot(grad, slice[3]);
      }
      spread.over(grad_map, grad_stride, point);
      // The bilinear form in x and y, of dots instead of pixels: its value is the attention
      // weight's gradient, its slopes are the location's. Linear, so it commutes with the sum below,
      // which then adds three numbers per thread instead of four.
      const float upper_step = upper_right - upper_left;
      const float lower_step = lower_right - lower_left;
      const float upper = fmaf(point.x, upper_step, upper_left);
      const float lower = fmaf(point.x, lower_step, lower_left);
      const float right = fmaf(point.y, lower_step - upper_step, upper_step);
      const float down = lower - upper;
      const float read = sum_over_group<L::group>(fmaf(point.y, down, upper));
      const float to_right = sum_over_group<L::group>(right);
      const float to_below = sum_over_group<L::group>(down);
      // Once all of the group have read the point, its place holds its gradients.
      __syncwarp();
      if (place.member == 0) {
        Point& result = staged[place.group][k];
        result.x = point.attention * to_right;
        result.y = point.attention * to_below;
        result.attention = read;
      }
    }
    __syncwarp();
    each_staged<T, D>(place, sizes, staged, begin, count,
                      [&](const Point& result, long long row, int sample, bool exists) {
                        if (!exists) return;
                        const long long at = row * samples + sample;
                        const Level& level = sizes.level[sample / sizes.points];
                        // A location is a share of the map, a slope is per pixel.
                        grad_locations[at] = make_float2(result.x * level.width,
                                                         result.y * level.height);
                        grad_weights[at] = result.attention;
                      });
    __syncwarp();
  }
}

}  // namespace mask2kan

// ---- Entry points: cuda.py defines VALUE_TYPE and HEAD_SIZE -----------------------------------------

#ifdef VALUE_TYPE

constexpr int kThreads = mask2kan::kWarps * mask2kan::kLanes;

extern "C" __global__ void __launch_bounds__(kThreads)
    ms_deform_attn_forward(const VALUE_TYPE* value, const float2* locations, const float* weights,
                           VALUE_TYPE* output, const __grid_constant__ mask2kan::Sizes sizes) {
  mask2kan::forward<VALUE_TYPE, HEAD_SIZE>(value, locations, weights, output, sizes);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    ms_deform_attn_backward(const VALUE_TYPE* value, const float2* locations, const float* weights,
                            const VALUE_TYPE* grad_output, float* grad_value,
                            float2* grad_locations, float* grad_weights,
                            const __grid_constant__ mask2kan::Sizes sizes) {
  mask2kan::backward<VALUE_TYPE, HEAD_SIZE>(value, locations, weights, grad_output, grad_value,
                                            grad_locations, grad_weights, sizes);
}

#endif
