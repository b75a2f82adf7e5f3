#pragma once

#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "data/sampler.h"

namespace tessera::data {

/// A sample that can't be used, and why.
struct BrokenSample {
  std::int64_t index = 0;  ///< in the dataset
  std::string key;
  std::string reason;
};

/// One row of a batch beside its pixels.
struct BatchRow {
  bool filled = false;  ///< false: no sample could be put here
  std::int64_t index = 0;
  std::int64_t image_id = 0;
  std::string key;
  std::vector<std::string> captions;
  std::vector<BrokenSample> broken;  ///< met on the way to this row's sample
};

struct FilledBatch {
  std::int64_t index = 0;
  std::int64_t first_position = 0;
  at::Tensor pixels;  ///< [B, 3, S, S] uint8
  std::vector<BatchRow> rows;
};

/// What an epoch consists of: batches first_batch … end_batch - 1, the positions of each, and how a row is
/// made.
struct BatchPlan {
  std::int64_t first_batch = 0;
  std::int64_t end_batch = 0;
  std::function<PositionRange(std::int64_t batch)> positions;
  /// Writes the pixels [3, S, S] of the sample at a position and returns the rest. Called by many threads at
  /// once; what it throws, next() throws when that batch's turn comes.
  std::function<BatchRow(std::int64_t position, const at::Tensor& pixels)> fill;
};

struct PipelineOptions {
  std::int64_t image_size = 0;        ///< S
  std::int64_t workers = 0;           ///< threads; 0 counts as 1
  std::int64_t prefetch_batches = 0;  ///< held in memory at most, the one being filled included
};

/// Worker threads fill batches row by row, all on the oldest unfinished batch first; batches leave in order.
/// Which thread fills which row has no influence on the result.
class BatchPipeline {
 public:
  explicit BatchPipeline(const PipelineOptions& options);
  /// Waits for at most the row that each worker has in hand.
  ~BatchPipeline();
  BatchPipeline(const BatchPipeline&) = delete;
  BatchPipeline& operator=(const BatchPipeline&) = delete;

  /// Abandons what is under way and begins the plan.
  void start(BatchPlan plan);
  /// The next batch, or nothing at the plan's end or before the first plan.
  std::optional<FilledBatch> next();
  /// Total time that next() waited for workers, in seconds.
  double seconds_waited() const { return seconds_waited_; }

 private:
  struct Job {
    std::shared_ptr<const BatchPlan> plan;
    FilledBatch batch;
    std::size_t next_row = 0;
    std::size_t rows_left = 0;
    std::size_t failed_row = 0;
    std::exception_ptr error;  ///< of the first row that failed
  };
  struct Claim {
    std::shared_ptr<Job> job;
    std::size_t row = 0;
  };

  void work();
  std::optional<Claim> claim();
  std::optional<Claim> claim_or_fail() noexcept;
  std::shared_ptr<Job> make_job();
  static void fill(const Claim& claim);
  void finish(const Claim& claim, const std::exception_ptr& error);

  PipelineOptions options_;
  std::mutex mutex_;
  std::condition_variable work_to_do_;
  std::condition_variable batch_done_;
  std::shared_ptr<const BatchPlan> plan_;
  std::int64_t next_batch_ = 0;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::exception_ptr failure_;  ///< of making a batch, rather than filling it
  bool stopping_ = false;
  double seconds_waited_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace tessera::data
