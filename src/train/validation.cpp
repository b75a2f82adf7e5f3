#include "train/validation.h"

#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/device.h"
#include "core/files.h"
#include "data/loader.h"
#include "data/source.h"
#include "eval/encode.h"
#include "eval/retrieval.h"
#include "language/tokenizer.h"
#include "model/stage1_model.h"

namespace tessera::train {

namespace {

constexpr const char* kValidationFile = "validation.json";
constexpr const char* kDataKey = "validation_data";

/// Back in training mode however the scope is left: a run may go on after a validation that was stopped.
class EvaluationMode {
 public:
  explicit EvaluationMode(model::Stage1Model& model) : model_(model) { model_.set_training(false); }
  ~EvaluationMode() { model_.set_training(true); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  model::Stage1Model& model_;
};

eval::ScoreRows with_call(eval::ScoreRows rows, const std::function<void()>& between) {
  return [rows = std::move(rows), between](std::int64_t first, std::int64_t last) {
    between();
    return rows(first, last);
  };
}

}  // namespace

nlohmann::json measure_validation(model::Stage1Model& model, const language::Tokenizer& tokenizer,
                                  const std::shared_ptr<const data::Source>& data, const Config& config,
                                  const Compute& compute, const Logger& logger,
                                  const std::function<void()>& between) {
  const EvaluationMode mode(model);
  data::EvalLoader loader(data, config.data, config.eval.batch_size, logger);
  const eval::EncodedSet encoded =
      eval::encode_set(model, tokenizer, loader, compute, config.language.max_tokens,
                       eval::EncodeDetail::kEmbeddings, between);
  eval::RetrievalScorer scorer = eval::embedding_scorer(encoded.image, encoded.text);
  scorer.image_to_text = with_call(std::move(scorer.image_to_text), between);
  scorer.text_to_image = with_call(std::move(scorer.text_to_image), between);
  return eval::to_json(eval::retrieval_scores(scorer, encoded.caption_image, encoded.images()));
}

void write_validation(const std::filesystem::path& checkpoint, const nlohmann::json& record,
                      const std::string& data) {
  nlohmann::json kept = record;
  kept[kDataKey] = data;
  write_file_atomically(checkpoint / kValidationFile, kept.dump(2) + "\n");
}

std::optional<nlohmann::json> read_validation(const std::filesystem::path& checkpoint) {
  const std::filesystem::path file = checkpoint / kValidationFile;
  if (!std::filesystem::is_regular_file(file)) return std::nullopt;
  nlohmann::json record = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  if (!record.is_object()) return std::nullopt;
  return record;
}

std::optional<double> validation_figure(const std::filesystem::path& checkpoint, const std::string& metric,
                                        const std::string& data) {
  const std::optional<nlohmann::json> record = read_validation(checkpoint);
  if (!record) return std::nullopt;
  const auto mark = record->find(kDataKey);
  const auto figure = record->find(metric);
  if (mark == record->end() || *mark != data || figure == record->end() || !figure->is_number())
    return std::nullopt;
  return figure->get<double>();
}

}  // namespace tessera::train
