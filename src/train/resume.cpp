#include "train/resume.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "config/config.h"
#include "config/config_table.h"
#include "core/error.h"
#include "core/sha1.h"

namespace tessera::train {

namespace {

/// What a rule's keys begin with: "fusion" is about "fusion.levels", not about "fusions".
bool is_about(const std::string& rule_key, const std::string& key) {
  if (key.compare(0, rule_key.size(), rule_key) != 0) return false;
  return key.size() == rule_key.size() || key[rule_key.size()] == '.';
}

std::string may_text(OnResume may) {
  switch (may) {
    case OnResume::kMayChange:
      return "may change";
    case OnResume::kSometimes:
      return "may change within limits";
    case OnResume::kNoEffect:
      return "without effect";
    case OnResume::kFixed:
      return "stays";
  }
  return {};
}

/// Where an epoch's samples end that its batches show.
std::int64_t samples_shown(const data::SamplerOptions& options) {
  const std::int64_t batch = options.batch_size * options.world_size;
  return options.drop_last ? options.samples / batch * batch : options.samples;
}

}  // namespace

std::int64_t Resumption::batches_then() const {
  return data::EpochSampler(sampler_options(then, data.samples, 0, ranks)).batches();
}

std::int64_t Resumption::batches_now() const {
  return data::EpochSampler(sampler_options(now, data.samples, 0, ranks)).batches();
}

const ResumeRule& resume_rule(const std::string& key) {
  for (const ResumeRule& rule : resume_rules()) {
    for (const std::string& about : rule.keys) {
      if (is_about(about, key)) return rule;
    }
  }
  TORCH_CHECK(false, "resume_rules: none for ", key);
}

std::string resume_rules_markdown() {
  std::string table = "| key | on resuming | |\n|---|---|---|\n";
  for (const ResumeRule& rule : resume_rules()) {
    table +=
        fmt::format("| `{}` | {} | {} |\n", fmt::join(rule.keys, "`, `"), may_text(rule.may), rule.remark);
  }
  return table;
}

std::vector<std::string> check_resumption(const Resumption& resumption) {
  std::vector<std::string> changed;
  std::vector<std::string> refused;
  for (const auto& [path, then, now] : differences(resumption.then, resumption.now)) {
    const ResumeRule& rule = resume_rule(path);
    const std::string line = fmt::format("{}: {}, was {}", path, now, then);
    if (rule.may == OnResume::kFixed) {
      refused.push_back(fmt::format("{} ({})", line, rule.remark));
    } else {
      changed.push_back(fmt::format(
          "the configuration has changed since: {}{}", line,
          rule.may == OnResume::kNoEffect ? " (without effect: it is read when a run begins)" : ""));
    }
  }
  for (const ResumeRule& rule : resume_rules()) {
    if (rule.refusal == nullptr) continue;
    if (const std::string why = rule.refusal(resumption); !why.empty()) refused.push_back(why);
  }
  if (refused.empty()) return changed;
  throw ConfigError(
      fmt::format("the run can't go on from {} with what has changed since: {}. Go on with what it had, or "
                  "start a new run, without --resume; where its weights fit what has changed, from them: "
                  "--set init_from={} --set run.name=…",
                  resumption.checkpoint.string(), fmt::join(refused, "; "), resumption.checkpoint.string()));
}

Position position_now(const Resumption& resumption, std::vector<std::string>& notes) {
  Position position = resumption.saved;
  position.data = resumption.data;
  const data::SamplerOptions then =
      sampler_options(resumption.then, resumption.data.samples, 0, resumption.ranks);
  const data::SamplerOptions now =
      sampler_options(resumption.now, resumption.data.samples, 0, resumption.ranks);
  if (then.batch_size == now.batch_size && then.drop_last == now.drop_last) return position;
  const std::int64_t batch = now.batch_size * now.world_size;
  const std::int64_t next = std::min(position.next_batch * then.batch_size * then.world_size, now.samples);
  const std::int64_t batches = resumption.batches_now();
  position.next_batch = next >= samples_shown(now) ? batches : next / batch;
  position.schedule_step = position.epoch * batches + position.next_batch;
  if (const std::int64_t twice = next - position.next_batch * batch; twice > 0 && next < samples_shown(now)) {
    notes.push_back(fmt::format(
        "data.batch_size: no batch of {} begins at sample {} of the epoch: the {} before it are shown again",
        now.batch_size, next, twice));
  }
  return position;
}

std::string keys_hash(const data::Source& data) {
  Sha1 hash;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    const std::string& key = data.key(i);
    hash.update(key.c_str(), key.size() + 1);  // with the zero, which no key holds
  }
  return hash.hex_digest();
}

data::SamplerOptions sampler_options(const Config& config, std::int64_t samples, std::int64_t rank,
                                     std::int64_t ranks) {
  return {samples,
          config.data.batch_size,
          config.data.drop_last,
          static_cast<std::uint64_t>(config.run.seed),
          rank,
          ranks};
}

}  // namespace tessera::train
