#include "model/parameter_table.h"

#include <fmt/format.h>

#include <array>

#include "model/stage1_model.h"

namespace tessera::model {

std::string with_thousands(std::int64_t number) {
  const std::string digits = std::to_string(number);
  const std::size_t sign = number < 0 ? 1 : 0;
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > sign && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string parameter_table(const Stage1Model& model) {
  struct Row {
    Part part = Part::kBackbone;
    std::int64_t all = 0;
    std::int64_t trainable = 0;
  };
  std::array<Row, kParts.size()> rows;
  for (std::size_t i = 0; i < rows.size(); ++i) rows.at(i).part = kParts.at(i);
  std::int64_t all = 0;
  std::int64_t trainable = 0;
  for (const NamedParameter& parameter : model.named_parts()) {
    const std::int64_t count = parameter.tensor.numel();
    Row& row = rows.at(static_cast<std::size_t>(parameter.part));
    row.all += count;
    all += count;
    if (parameter.tensor.requires_grad()) {
      row.trainable += count;
      trainable += count;
    }
  }
  std::string table = fmt::format("{:<12} {:>16} {:>16}\n", "part", "parameters", "trainable");
  for (const Row& row : rows) {
    if (row.all == 0) continue;
    table += fmt::format("{:<12} {:>16} {:>16}\n", part_name(row.part), with_thousands(row.all),
                         with_thousands(row.trainable));
  }
  return table + fmt::format("trainable params: {} || all params: {} || trainable%: {:.4f}",
                             with_thousands(trainable), with_thousands(all),
                             100.0 * static_cast<double>(trainable) / static_cast<double>(all));
}

}  // namespace tessera::model
