// Enough of CUDA to run the kernels of mask2kan/ops/ms_deform_attn.cu on a CPU.
//
// Every thread of a warp is a coroutine. It runs until it meets the others (a shuffle, a
// __syncwarp) or ends; the next takes its turn; when all have stopped, the next round begins. Threads
// of a warp that stop at different places are an error here, as they are on a GPU. Warps and blocks
// run one after another. Shared memory is static, so it holds what the last block left in it.

#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include <ucontext.h>

#define __device__
#define __global__
#define __shared__ static

struct float2 {
  float x, y;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float half_bits_to_float(unsigned short bits) {
  _Float16 value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<float>(value);
}

inline unsigned short float_to_half_bits(float value) {
  const _Float16 narrow = static_cast<_Float16>(value);
  unsigned short bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  return bits;
}

inline int min(int a, int b) { return a < b ? a : b; }

inline void atomicAdd(float* address, float amount) { *address += amount; }

inline void atomicAdd(float4* address, float4 amount) {
  if (reinterpret_cast<std::size_t>(address) % sizeof(float4)) {
    std::fprintf(stderr, "a vector addition is not aligned\n");
    std::exit(2);
  }
  address->x += amount.x;
  address->y += amount.y;
  address->z += amount.z;
  address->w += amount.w;
}

namespace emulator {

constexpr int kWarpSize = 32;
constexpr std::size_t kStackBytes = 64 << 10;

struct Index {
  unsigned x = 0;
};

enum class Stop { kRunning, kSyncwarp, kShuffle, kEnd };

struct Lane {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  Stop stop = Stop::kEnd;
  int shuffles = 0;
};

inline Index thread, block;
inline Lane lanes[kWarpSize];
inline float exchanged[2][kWarpSize];  // by turns: a fast lane must not overwrite a slow one's
inline ucontext_t scheduler;
inline int current = 0;
inline std::function<void()> kernel;

inline void stop_at(Stop stop) {
  lanes[current].stop = stop;
  swapcontext(&lanes[current].context, &scheduler);
}

inline void run_lane() {
  kernel();
  stop_at(Stop::kEnd);
}

inline void run_warp(int warp) {
  for (int i = 0; i < kWarpSize; ++i) {
    Lane& lane = lanes[i];
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.data();
    lane.context.uc_stack.ss_size = lane.stack.size();
    lane.context.uc_link = nullptr;
    makecontext(&lane.context, run_lane, 0);
    lane.shuffles = 0;
  }
  do {
    for (current = 0; current < kWarpSize; ++current) {
      thread.x = warp * kWarpSize + current;
      lanes[current].stop = Stop::kRunning;
      swapcontext(&scheduler, &lanes[current].context);
    }
    for (const Lane& lane : lanes) {
      if (lane.stop != lanes[0].stop || lane.shuffles != lanes[0].shuffles) {
        std::fprintf(stderr, "the threads of a warp do not meet at the same place\n");
        std::exit(2);
      }
    }
  } while (lanes[0].stop != Stop::kEnd);
}

// Run a kernel as <<<blocks, threads>>> would.
inline void launch(unsigned blocks, int threads, std::function<void()> body) {
  kernel = std::move(body);
  for (block.x = 0; block.x < blocks; ++block.x)
    for (int warp = 0; warp < threads / kWarpSize; ++warp) run_warp(warp);
}

}  // namespace emulator

#define threadIdx emulator::thread
#define blockIdx emulator::block

inline void __syncwarp() { emulator::stop_at(emulator::Stop::kSyncwarp); }

inline float __shfl_xor_sync(unsigned, float value, int step) {
  using namespace emulator;
  const int turn = lanes[current].shuffles++ % 2;
  exchanged[turn][current] = value;
  stop_at(Stop::kShuffle);
  return exchanged[turn][current ^ step];
}
