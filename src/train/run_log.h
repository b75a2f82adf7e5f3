#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "core/logging.h"
#include "train/observer.h"

namespace tessera::train {

/// metrics.jsonl: one object a logged step ("type": "step") or validation ("type": "validation"). Lines that
/// can't be written (a full disk) are counted and told of once, and once more when there is room again.
class JsonLinesLog final : public Observer {
 public:
  /// Appends to `file`. Lines of steps after `resumed_step` are dropped first: a run that died after its last
  /// checkpoint would otherwise tell those steps twice.
  /// @param validated  false: so is the validation of that step, which is still to come
  JsonLinesLog(const std::filesystem::path& file, std::int64_t resumed_step, bool validated, Logger logger);
  ~JsonLinesLog() override;
  JsonLinesLog(const JsonLinesLog&) = delete;
  JsonLinesLog& operator=(const JsonLinesLog&) = delete;

  void on_step(const nlohmann::json& record) override;
  void on_validation(const nlohmann::json& record) override;

 private:
  void write(const char* type, const nlohmann::json& record);

  std::filesystem::path path_;
  Logger logger_;
  int descriptor_;
  std::int64_t missing_ = 0;  ///< lines since the last that could be written
};

/// One plain line a logged step, one a validation, through the run's logger.
class TextLog final : public Observer {
 public:
  explicit TextLog(Logger logger) : logger_(std::move(logger)) {}
  void on_step(const nlohmann::json& record) override;
  void on_validation(const nlohmann::json& record) override;

 private:
  Logger logger_;
};

/// A line on the terminal that each logged step rewrites.
class ProgressLine final : public Observer {
 public:
  void on_step(const nlohmann::json& record) override;
  void on_validation(const nlohmann::json& record) override;
  void on_end() override;

 private:
  void clear();
  bool shown_ = false;
};

/// "epoch 3/6 step 250/750 | loss 2.134 itc 2.134 | 118 images/s | data wait 1 % | 4 min 12 s left".
std::string step_line(const nlohmann::json& record);
/// "validation epoch 3/6 step 375 | image→text R@1 …".
std::string validation_line(const nlohmann::json& record);
/// "4 min 12 s", "2 h 05 min", "38 s".
std::string duration_text(double seconds);

}  // namespace tessera::train
