// tessera features: an image encoder's features of many images as a safetensors file.

#include <ATen/core/Tensor.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "command_line.h"
#include "config/run_config.h"
#include "core/device.h"
#include "core/error.h"
#include "core/safetensors_rows.h"
#include "core/stop_signal.h"
#include "core/utf8.h"
#include "data/image_list.h"
#include "inference/image_features.h"
#include "model_tool.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

using Clock = std::chrono::steady_clock;

/// The value of an option that is one of a few words.
template <typename Value>
Value word_of(const options::variables_map& values, const char* name,
              const std::vector<std::pair<std::string, Value>>& meanings) {
  const std::string word = values[name].as<std::string>();
  std::vector<std::string> words;
  for (const auto& [accepted, meaning] : meanings) {
    if (word == accepted) return meaning;
    words.push_back(accepted);
  }
  throw ConfigError(fmt::format("--{}: expected one of {}, found '{}'", name, fmt::join(words, ", "), word));
}

std::string time_left(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  return seconds < 5400 ? fmt::format("{:.0f} min", seconds / 60) : fmt::format("{:.1f} h", seconds / 3600);
}

/// One line on standard error that keeps being written over; a line every half minute where that is no
/// terminal.
class ProgressLine {
 public:
  void show(const inference::FeatureProgress& progress) {
    const bool finished = progress.done == progress.of;
    const double since_last = std::chrono::duration<double>(Clock::now() - last_).count();
    if (!finished && since_last < (terminal_ ? 0.2 : 30.0)) return;
    if (finished && !terminal_) return;
    last_ = Clock::now();
    const double rate = static_cast<double>(progress.done) / std::max(seconds_since(start_), 1e-9);
    const std::string line =
        fmt::format("{} of {} images, {:.1f} images/s, {} left", progress.done, progress.of, rate,
                    time_left(static_cast<double>(progress.of - progress.done) / rate));
    std::fprintf(stderr, terminal_ ? "\r%-79s" : "%s\n", line.c_str());
    shown_ = terminal_;
  }
  /// Leaves the line, so that others can follow.
  void leave() {
    if (shown_) std::fputc('\n', stderr);
    shown_ = false;
  }
  double seconds() const { return seconds_since(start_); }

 private:
  bool terminal_ = isatty(STDERR_FILENO) != 0;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

Compute compute_of(const options::variables_map& values) {
  RunConfig run;
  run.device = word_of<DeviceChoice>(
      values, "device",
      {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}});
  run.precision = word_of<PrecisionChoice>(
      values, "precision",
      {{"auto", PrecisionChoice::kAuto}, {"fp32", PrecisionChoice::kFp32}, {"bf16", PrecisionChoice::kBf16}});
  if (values.count("threads") != 0) run.threads = count_of(values, "threads", 1);
  return choose_compute(run.device, run.precision, run.threads);
}

inference::FeatureEncoderOptions encoder_options(const options::variables_map& values) {
  using inference::FeatureKind;
  inference::FeatureEncoderOptions result;
  result.model = values["model"].as<std::string>();
  if (values.count("adapter") != 0) result.adapter = values["adapter"].as<std::string>();
  result.kind = word_of<FeatureKind>(values, "what",
                                     {{"pooled", FeatureKind::kPooled},
                                      {"tokens", FeatureKind::kTokens},
                                      {"compressed", FeatureKind::kCompressed}});
  if (values.count("image-size") != 0) result.image_size = count_of(values, "image-size", 1);
  result.alpha =
      word_of<data::Alpha>(values, "alpha", {{"white", data::Alpha::kWhite}, {"drop", data::Alpha::kDrop}});
  result.interpolation = word_of<vision::PositionInterpolation>(
      values, "position-interpolation",
      {{"auto", vision::PositionInterpolation::kAuto},
       {"scale_factor", vision::PositionInterpolation::kScaleFactor},
       {"size", vision::PositionInterpolation::kSize},
       {"size_antialias", vision::PositionInterpolation::kSizeAntialias}});
  return result;
}

c10::ScalarType dtype_of(const options::variables_map& values) {
  return word_of<c10::ScalarType>(
      values, "dtype", {{"float32", c10::kFloat}, {"float16", c10::kHalf}, {"bfloat16", c10::kBFloat16}});
}

inference::FeatureListOptions list_options(const options::variables_map& values, ProgressLine& line) {
  inference::FeatureListOptions result;
  result.batch_size = count_of(values, "batch-size", 1);
  result.workers = count_of(values, "workers", 1);
  result.dtype = dtype_of(values);
  result.skip_broken = values.count("skip-broken") != 0;
  result.on_broken = [&line](const std::string& message) {
    line.leave();
    std::fprintf(stderr, "tessera features: skipped: %s\n", message.c_str());
  };
  return result;
}

/// Before hours of work, not after them.
void check_output(const std::string& output) {
  namespace fs = std::filesystem;
  const auto refuse = [&](const std::string& why) {
    throw ConfigError(fmt::format("--output {}: {}", quoted(output), why));
  };
  if (output.empty()) refuse("expected the name of a file");
  std::error_code error;
  const fs::path folder = fs::absolute(output).parent_path();
  if (!fs::is_directory(folder, error)) refuse(fmt::format("there is no folder {}", folder.string()));
  const fs::file_status status = fs::status(output, error);
  if (error && status.type() != fs::file_type::not_found) refuse(error.message());
  if (fs::is_directory(status)) refuse("expected a file to write, found a folder");
  if (fs::exists(status) && !fs::is_regular_file(status))
    refuse("expected a file to write, found something else");
}

options::options_description described_options() {
  options::options_description description("Options");
  const auto words = [] { return options::value<std::vector<std::string>>()->composing()->multitoken(); };
  // clang-format off
  description.add_options()
      ("model,m", options::value<std::string>()->required(),
       "a DINOv2 folder as Hugging Face has it (config.json, model.safetensors, preprocessor_config.json), "
       "facebook's .pth, or a Tessera checkpoint or bundle")
      ("adapter", options::value<std::string>(), "a PEFT folder: LoRA onto a DINOv2 folder or file")
      ("images", words()->required(),
       "files, folders, WebDataset shards (*.tar, with braces), or @FILE with one of these a line")
      ("output,o", options::value<std::string>()->required(), "the safetensors file to write")
      ("what", options::value<std::string>()->default_value("pooled"),
       "pooled: the encoder's first token; tokens: all of its last hidden state; compressed: the tokens behind a "
       "Tessera model's compressor")
      ("image-size", options::value<std::int64_t>(),
       "pixels a side instead of the model's own; the edge before cropping keeps its proportion to it")
      ("position-interpolation", options::value<std::string>()->default_value("auto"),
       "how positions are brought to another image size: scale_factor, size, size_antialias, or auto: as the "
       "model was trained")
      ("alpha", options::value<std::string>()->default_value("white"),
       "transparency: white shows white through; drop shows the colour beneath, as PIL's convert(\"RGB\")")
      ("batch-size", options::value<std::int64_t>()->default_value(32), "images at a time")
      ("workers", options::value<std::int64_t>()->default_value(2), "threads that decode images")
      ("dtype", options::value<std::string>()->default_value("float32"), "of the file: float32, float16 or bfloat16")
      ("precision", options::value<std::string>()->default_value("fp32"), "of the encoder: fp32, bf16 or auto")
      ("skip-broken", "go on after an image that can't be read")
      ("device", options::value<std::string>()->default_value("auto"), "auto, cpu or cuda")
      ("threads", options::value<std::int64_t>(), "CPU threads of the encoder");
  // clang-format on
  return description;
}

std::vector<std::string> all_names(const data::ImageList& images) {
  std::vector<std::string> names;
  for (std::int64_t i = 0; i < images.size(); ++i) names.push_back(images.name(i));
  return names;
}

StringMap metadata_of(const inference::FeatureEncoder& encoder, const std::vector<std::string>& names) {
  StringMap metadata = encoder.description();
  metadata["format"] = "pt";
  metadata["images"] = utf8_json(names).dump();
  // A path may hold bytes that are no UTF-8, which the format doesn't take.
  for (auto& [field, value] : metadata) value = as_utf8(value);
  return metadata;
}

}  // namespace

int features_command(const std::vector<std::string>& arguments) {
  const auto values = parse_options(
      "Writes an image encoder's features of many images, one tensor that is named by --what: `pooled` [N, "
      "C],\n"
      "`tokens` [N, 1+R+P, C] or `compressed` [N, 1+P, D]. The metadata's `images` names the rows (a JSON "
      "list);\nit also has the model, the adapter, their SHA-1, and the processor.\n\n"
      "Usage: tessera features --model PATH [--adapter FOLDER] --images PATH... --output FILE\n",
      described_options(), arguments);
  if (!values) return kDone;
  const std::string output = (*values)["output"].as<std::string>();
  check_output(output);
  const Compute compute = compute_of(*values);
  ProgressLine line;
  inference::FeatureListOptions list = list_options(*values, line);
  const inference::FeatureEncoderOptions of_encoder = encoder_options(*values);
  const data::ImageList images = data::ImageList::open(words_of(*values, "images"));
  for (const std::string& damage : images.damage()) {
    std::fprintf(stderr, "tessera features: %s\n", damage.c_str());
  }
  if (const std::string left_out = images.left_out(); !left_out.empty()) {
    std::fprintf(stderr, "tessera features: left out: %s\n", left_out.c_str());
  }
  const auto encoder = inference::FeatureEncoder::open(of_encoder, compute);
  const std::string what = (*values)["what"].as<std::string>();
  const StopSignal stop;  // from here on there is a file to take away
  list.progress = [&](const inference::FeatureProgress& progress) {
    line.show(progress);
    if (stop.received() == 0 || progress.done == progress.of) return;
    line.leave();
    fail("stopped after {} of {} images; nothing was written", progress.done, progress.of);
  };
  SafetensorsRows rows(output, what, list.dtype,
                       SafetensorsRows::metadata_size(metadata_of(*encoder, all_names(images))));
  line = ProgressLine();  // loading the model is not counted
  const inference::EncodedList result =
      inference::encode_list(*encoder, images, list, [&](const at::Tensor& some) { rows.append(some); });
  const double seconds = line.seconds();
  line.leave();
  rows.commit(metadata_of(*encoder, result.names));
  std::cout << fmt::format("{}: {} [{}] {}; {:.1f} images/s; {}\n", output, what,
                           fmt::join(rows.shape(), ", "), (*values)["dtype"].as<std::string>(),
                           static_cast<double>(result.names.size()) / std::max(seconds, 1e-9),
                           compute.describe());
  if (result.broken > 0)
    std::cout << fmt::format("{} broken image{} skipped\n", result.broken,
                             result.broken == 1 ? " was" : "s were");
  return kDone;
}

}  // namespace tessera::apps
