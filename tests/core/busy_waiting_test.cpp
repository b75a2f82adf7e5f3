#include "core/busy_waiting.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

namespace tessera {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kPeriod = 50'000'000;  // nanoseconds

/// Of `periods` periods with so many threads in line, those in which the processors counted as shared.
int shared_periods(SharingDetector& detector, double threads_in_line, int periods) {
  int shared = 0;
  for (int i = 0; i < periods; ++i)
    shared += detector.update(static_cast<std::int64_t>(threads_in_line * kPeriod), kPeriod) ? 1 : 0;
  return shared;
}

TEST(SharingDetectorTest, ABusyNeighbourIsSeenWithinAFifthOfASecond) {
  SharingDetector detector;
  EXPECT_EQ(shared_periods(detector, 0.05, 100), 0);
  EXPECT_GE(shared_periods(detector, 2.0 / 3, 20), 16);
}

TEST(SharingDetectorTest, AShortCrowdIsNone) {
  SharingDetector detector;
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(shared_periods(detector, 0.8, 1), 0);
    EXPECT_EQ(shared_periods(detector, 0.1, 9), 0);
  }
}

TEST(SharingDetectorTest, WhenTheNeighbourHasGoneItEnds) {
  SharingDetector detector;
  ASSERT_GT(shared_periods(detector, 0.7, 100), 90);
  const int left = shared_periods(detector, 0.05, 100);
  EXPECT_GT(left, 0);
  EXPECT_LT(left, 20);
  EXPECT_EQ(shared_periods(detector, 0.05, 100), 0);
}

TEST(SharingDetectorTest, ALineThatSleepingEndsIsTriedAgainLessAndLessOften) {
  // As on many processors: in line while threads spin, none while they sleep.
  SharingDetector detector;
  bool shared = false;
  int changes = 0, periods_shared = 0;
  for (int i = 0; i < 2000; ++i) {
    const bool now = detector.update(shared ? 0 : kPeriod, kPeriod);
    changes += now != shared ? 1 : 0;
    periods_shared += now ? 1 : 0;
    shared = now;
  }
  EXPECT_GT(periods_shared, 1900);
  EXPECT_GE(changes, 3);
  EXPECT_LT(changes, 20);
}

TEST(SharingDetectorTest, AThreadThatEndsTakesItsTimeWithIt) {
  SharingDetector detector;
  EXPECT_FALSE(detector.update(-100 * kPeriod, kPeriod));
  ASSERT_GT(shared_periods(detector, 0.7, 10), 0);
  EXPECT_TRUE(detector.update(-100 * kPeriod, kPeriod));
}

TEST(BusyWaitingTest, TheKernelCountsTimeInLine) {
  const std::optional<std::int64_t> before = time_in_line();
  if (!before) GTEST_SKIP() << "no /proc/self/task/*/schedstat here";
  // More threads that run than there are processors: some have to wait.
  std::atomic<bool> ends{false};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i)
    threads.emplace_back([&] {
      while (!ends) {
      }
    });
  std::this_thread::sleep_for(300ms);
  const std::int64_t after = time_in_line().value_or(0);
  ends = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(after - *before, kPeriod);
}

TEST(BusyWaitingTest, WhatTheEnvironmentSaysHolds) {
  for (const char* name : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}) {
    unsetenv("OMP_WAIT_POLICY");
    unsetenv("GOMP_SPINCOUNT");
    EXPECT_EQ(BusyWaiting().watches(), time_in_line().has_value());
    setenv(name, "1", 1);
    EXPECT_FALSE(BusyWaiting().watches()) << name;
    unsetenv(name);
  }
}

TEST(BusyWaitingTest, ThreadsSleepWhileOthersWantTheProcessorsAndRegionsComputeTheSame) {
  unsetenv("OMP_WAIT_POLICY");
  unsetenv("GOMP_SPINCOUNT");
  const BusyWaiting busy_waiting;
  if (!busy_waiting.watches()) GTEST_SKIP() << "no /proc/self/task/*/schedstat here";
  const int threads = at::get_num_threads();
  const at::Tensor numbers = at::ones({200'000}, at::kDouble);
  const auto compute_until = [&](auto done) {
    const auto deadline = std::chrono::steady_clock::now() + 20s;
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      EXPECT_EQ((numbers * 2).sum().item<double>(), 2.0 * static_cast<double>(numbers.numel()));
      EXPECT_EQ(at::get_num_threads(), threads);
    }
    return done();
  };
  std::atomic<bool> ends{false};
  std::vector<std::thread> others;
  for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i)
    others.emplace_back([&] {
      while (!ends) {
      }
    });
  EXPECT_TRUE(compute_until([&] { return busy_waiting.lets_sleep(); }));
  ends = true;
  for (std::thread& other : others) other.join();
  // Whether the line goes away depends on what else runs on this machine; that it may come and go is what
  // counts.
  const auto soon = std::chrono::steady_clock::now() + 300ms;
  compute_until([&] { return std::chrono::steady_clock::now() > soon; });
}

}  // namespace
}  // namespace tessera
