#include "inference/image_features.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <future>
#include <thread>

#include "core/error.h"
#include "core/finite.h"
#include "data/worker_threads.h"

namespace tessera::inference {
namespace {

struct PreparedImage {
  at::Tensor pixels;  ///< undefined: broken
  std::string error;
};

/// Decodes images [begin, end) on several threads.
std::vector<PreparedImage> prepare_images(const FeatureEncoder& encoder, const data::ImageList& images,
                                          std::int64_t begin, std::int64_t end, std::int64_t workers) {
  std::vector<PreparedImage> prepared(static_cast<std::size_t>(end - begin));
  std::atomic<std::int64_t> next = begin;
  std::exception_ptr failure;
  std::atomic<bool> failed = false;
  const auto work = [&] {
    data::compute_single_threaded_here();
    while (!failed) {
      const std::int64_t index = next++;
      if (index >= end) return;
      PreparedImage& image = prepared[static_cast<std::size_t>(index - begin)];
      try {
        image.pixels = encoder.prepare(images.read(index), images.name(index));
      } catch (const Error& error) {
        image.error = error.what();
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    }
  };
  std::vector<std::thread> threads;
  for (std::int64_t i = 0; i < std::min(workers, end - begin); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  return prepared;
}

/// Rows on their way out.
class Rows {
 public:
  Rows(const std::function<void(const at::Tensor& rows)>& take, c10::ScalarType dtype)
      : take_(take), dtype_(dtype) {}

  void add(const at::Tensor& features, const std::vector<std::string>& names) {
    const at::IntArrayRef shape = features.sizes().slice(1);
    if (names_.empty()) shape_ = shape.vec();
    if (shape != at::IntArrayRef(shape_)) {
      fail(
          "{}: its features have the shape [{}], those of the images before [{}]; with tokens, all images "
          "have to be of one size",
          names.front(), fmt::join(shape.vec(), ", "), fmt::join(shape_, ", "));
    }
    check_computed(features, "one of its features", names);
    const at::Tensor rows = features.to(dtype_);
    if (!is_finite(rows)) refuse_dtype(features, rows, names);
    take_(rows);
    names_.insert(names_.end(), names.begin(), names.end());
  }

  EncodedList result(std::int64_t broken) { return {std::move(names_), broken}; }
  bool empty() const { return names_.empty(); }

 private:
  void refuse_dtype(const at::Tensor& features, const at::Tensor& rows,
                    const std::vector<std::string>& names) const {
    for (std::int64_t row = 0; row < features.size(0); ++row) {
      if (is_finite(rows[row])) continue;
      fail("{}: a feature of the size {:.4g} is beyond what {} can hold; write bfloat16 or float32",
           names[static_cast<std::size_t>(row)], features[row].abs().max().item<double>(),
           c10::toString(dtype_));
    }
  }

  const std::function<void(const at::Tensor& rows)>& take_;
  c10::ScalarType dtype_;
  std::vector<std::int64_t> shape_;  ///< of one row
  std::vector<std::string> names_;
};

/// Images of one size, waiting for the encoder.
class Waiting {
 public:
  void add(FeatureEncoder& encoder, Rows& rows, const at::Tensor& pixels, const std::string& name) {
    if (!pixels_.empty() && pixels_.back().sizes() != pixels.sizes()) encode(encoder, rows);
    pixels_.push_back(pixels);
    names_.push_back(name);
  }
  void encode(FeatureEncoder& encoder, Rows& rows) {
    if (pixels_.empty()) return;
    rows.add(encoder.encode(at::stack(pixels_)), names_);
    pixels_.clear();
    names_.clear();
  }

 private:
  std::vector<at::Tensor> pixels_;
  std::vector<std::string> names_;
};

}  // namespace

EncodedList encode_list(FeatureEncoder& encoder, const data::ImageList& images,
                        const FeatureListOptions& options,
                        const std::function<void(const at::Tensor& rows)>& take) {
  const c10::NoGradGuard no_grad;
  const std::int64_t count = images.size();
  const auto prepare = [&](std::int64_t begin) {
    return std::async(std::launch::async, [&, begin] {
      const std::int64_t end = std::min(count, begin + options.batch_size);
      return prepare_images(encoder, images, begin, end, options.workers);
    });
  };
  Rows rows(take, options.dtype);
  std::int64_t broken = 0;
  std::future<std::vector<PreparedImage>> next = prepare(0);
  for (std::int64_t begin = 0; begin < count; begin += options.batch_size) {
    const std::vector<PreparedImage> prepared = next.get();
    if (begin + options.batch_size < count) next = prepare(begin + options.batch_size);
    Waiting waiting;
    for (std::size_t i = 0; i < prepared.size(); ++i) {
      if (prepared[i].pixels.defined()) {
        waiting.add(encoder, rows, prepared[i].pixels, images.name(begin + static_cast<std::int64_t>(i)));
        continue;
      }
      if (!options.skip_broken) throw Error(prepared[i].error);
      ++broken;
      if (options.on_broken) options.on_broken(prepared[i].error);
    }
    waiting.encode(encoder, rows);
    if (options.progress) options.progress({std::min(count, begin + options.batch_size), count});
  }
  if (rows.empty()) fail("none of the {} images could be read", count);
  return rows.result(broken);
}

}  // namespace tessera::inference
