#include "data/batch_pipeline.h"

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <opencv2/core/utility.hpp>

#include "data/worker_threads.h"

namespace tessera::data {

BatchPipeline::BatchPipeline(const PipelineOptions& options) : options_(options) {
  TORCH_CHECK(options.image_size > 0 && options.workers >= 0 && options.prefetch_batches > 0, "image_size ",
              options.image_size, ", workers ", options.workers, ", prefetch_batches ",
              options.prefetch_batches);
  // Process-wide: every worker decodes an image of its own, so OpenCV's threads would only get in the way.
  cv::setNumThreads(0);
  const auto workers = static_cast<std::size_t>(std::max<std::int64_t>(1, options.workers));
  threads_.reserve(workers);
  for (std::size_t i = 0; i < workers; ++i) threads_.emplace_back([this] { work(); });
}

BatchPipeline::~BatchPipeline() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_to_do_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void BatchPipeline::start(BatchPlan plan) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.clear();  // a worker that still has a row in hand finishes it in a job that nobody will read
    failure_ = nullptr;
    next_batch_ = plan.first_batch;
    plan_ = std::make_shared<const BatchPlan>(std::move(plan));
  }
  work_to_do_.notify_all();
}

std::optional<FilledBatch> BatchPipeline::next() {
  std::unique_lock lock(mutex_);
  const bool ended = !plan_ || (jobs_.empty() && next_batch_ >= plan_->end_batch);
  if (ended && !failure_) return std::nullopt;
  const auto began = std::chrono::steady_clock::now();
  batch_done_.wait(lock, [this] { return failure_ || (!jobs_.empty() && jobs_.front()->rows_left == 0); });
  seconds_waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  if (failure_) std::rethrow_exception(failure_);
  const std::shared_ptr<Job> job = jobs_.front();
  if (job->error)
    std::rethrow_exception(job->error);  // the job stays: every later call fails in the same way
  jobs_.pop_front();
  lock.unlock();
  work_to_do_.notify_all();
  return std::move(job->batch);
}

std::shared_ptr<BatchPipeline::Job> BatchPipeline::make_job() {
  const PositionRange range = plan_->positions(next_batch_);
  auto job = std::make_shared<Job>();
  job->plan = plan_;
  job->batch.index = next_batch_++;
  job->batch.first_position = range.first;
  job->batch.pixels = at::empty({range.count, 3, options_.image_size, options_.image_size}, at::kByte);
  job->batch.rows.resize(static_cast<std::size_t>(range.count));
  job->rows_left = job->batch.rows.size();
  jobs_.push_back(job);
  return job;
}

std::optional<BatchPipeline::Claim> BatchPipeline::claim() {
  for (const auto& job : jobs_) {
    if (job->next_row < job->batch.rows.size()) return Claim{job, job->next_row++};
  }
  const bool room = static_cast<std::int64_t>(jobs_.size()) < options_.prefetch_batches;
  if (!plan_ || !room || next_batch_ >= plan_->end_batch) return std::nullopt;
  const std::shared_ptr<Job> job = make_job();
  return Claim{job, job->next_row++};
}

std::optional<BatchPipeline::Claim> BatchPipeline::claim_or_fail() noexcept {
  if (failure_) return std::nullopt;
  try {
    return claim();
  } catch (...) {
    failure_ = std::current_exception();
    batch_done_.notify_all();
    return std::nullopt;
  }
}

void BatchPipeline::fill(const Claim& claim) {
  FilledBatch& batch = claim.job->batch;
  const auto row = static_cast<std::int64_t>(claim.row);
  batch.rows[claim.row] = claim.job->plan->fill(batch.first_position + row, batch.pixels.select(0, row));
}

void BatchPipeline::finish(const Claim& claim, const std::exception_ptr& error) {
  Job& job = *claim.job;
  if (error && (!job.error || claim.row < job.failed_row)) {
    job.error = error;
    job.failed_row = claim.row;
  }
  if (--job.rows_left == 0) batch_done_.notify_all();
}

void BatchPipeline::work() {
  const c10::NoGradGuard no_grad;
  compute_single_threaded_here();
  std::unique_lock lock(mutex_);
  while (true) {
    std::optional<Claim> claimed;
    work_to_do_.wait(lock, [&] { return stopping_ || (claimed = claim_or_fail()).has_value(); });
    if (stopping_) return;
    lock.unlock();
    std::exception_ptr error;
    try {
      fill(*claimed);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    finish(*claimed, error);
  }
}

}  // namespace tessera::data
