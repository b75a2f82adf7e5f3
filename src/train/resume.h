#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/open_source.h"
#include "data/sampler.h"
#include "train/position.h"

namespace tessera::train {

/// What is known when a run goes on: the checkpoint, and what it goes on with.
struct Resumption {
  std::filesystem::path checkpoint;
  Config then;  ///< the checkpoint's
  Config now;
  Position saved;
  DataMark data;  ///< of the training data now
  std::int64_t ranks = 1;

  std::int64_t batches_then() const;  ///< an epoch's, over the data of now
  std::int64_t batches_now() const;
};

/// What may become of a key of the configuration when a run goes on.
enum class OnResume {
  kMayChange,  ///< counts from here on
  kSometimes,  ///< `refusal` says
  kNoEffect,   ///< is read when a run begins
  kFixed,
};

/// One row of the table in docs/training.md.
struct ResumeRule {
  std::vector<std::string> keys;  ///< or sections: a rule for a key goes before one for its section
  OnResume may = OnResume::kFixed;
  std::string remark;  ///< in Markdown: what follows from a change, where it may be, or why not
  /// For kSometimes: why not, with the keys and both values; empty where it may. Asked whether or not a key
  /// was changed: what a file holds may have.
  std::string (*refusal)(const Resumption&) = nullptr;
};

/// Every key of the configuration has its rule.
const std::vector<ResumeRule>& resume_rules();
/// @param key  one of config_table()
const ResumeRule& resume_rule(const std::string& key);
/// The table of docs/training.md.
std::string resume_rules_markdown();

/// A line for each key that has changed and may, saying whether that has an effect.
/// @throws ConfigError that names every key whose change can't be followed, with the reason and what to do
std::vector<std::string> check_resumption(const Resumption& resumption);

/// Where the run goes on: the saved position, counted in the batches of now where their size was changed.
/// Adds a line to `notes` for samples that an epoch shows twice for that.
Position position_now(const Resumption& resumption, std::vector<std::string>& notes);

/// SHA-1 over the keys of a data set in their order.
std::string keys_hash(const data::Source& data);

/// How the configuration divides an epoch into batches.
data::SamplerOptions sampler_options(const Config& config, std::int64_t samples, std::int64_t rank,
                                     std::int64_t ranks);

}  // namespace tessera::train
