#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {
struct ConfigRows;
}

namespace tessera::data {

struct AugmentationConfig {
  bool random_resized_crop = true;
  double scale_min = 0.5;
  double scale_max = 1.0;
  double ratio_min = 0.75;
  double ratio_max = 1.3333;

  bool operator==(const AugmentationConfig&) const = default;
};

/// Of a CSV or TSV file; names of columns, empty: a usual one, or by place (data/caption_table.h).
struct TableConfig {
  std::string image;
  std::string caption;
  std::string image_id;
  std::string folder;  ///< that pictures' paths are relative to; empty: the table's own

  bool operator==(const TableConfig&) const = default;
};

struct DataConfig {
  std::vector<std::string> train;  ///< patterns of files, resolved against the config file's folder
  std::vector<std::string> validation;
  TableConfig table;
  std::int64_t image_size = 224;
  std::vector<double> image_mean = {0.485, 0.456, 0.406};
  std::vector<double> image_std = {0.229, 0.224, 0.225};
  AugmentationConfig augmentation;
  std::int64_t batch_size = 64;  ///< per rank
  bool drop_last = true;         ///< leave out an epoch's last, short batch
  std::int64_t workers = 2;
  std::int64_t prefetch_batches = 4;
  double max_broken_fraction = 0.01;

  bool operator==(const DataConfig&) const = default;
};

/// The section's keys (core/config_rows.h).
ConfigRows config_rows(DataConfig& data);

}  // namespace tessera::data
