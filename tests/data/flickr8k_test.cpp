#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "core/logging.h"
#include "data/loader.h"
#include "data/open_source.h"

namespace tessera::data {
namespace {

/// Real photographs, where the machine has them.
std::filesystem::path data_folder() {
  const char* folder = std::getenv("TESSERA_DATA_DIR");
  return folder != nullptr ? std::filesystem::path(folder)
                           : std::filesystem::path(TESSERA_SOURCE_DIR) / ".." / "shared" / "data";
}

TEST(Flickr8k, ValidationPhotographsLoadWithFiveCaptionsEach) {
  const auto shard = data_folder() / "flickr8k" / "val-000000.tar";
  if (!std::filesystem::exists(shard)) GTEST_SKIP() << "no " << shard << "; set TESSERA_DATA_DIR";
  const auto dataset = open_source({shard.string()}, {}, null_logger());
  EXPECT_EQ(dataset->size(), 1000);
  EXPECT_EQ(dataset->damage().breaks, 0);
  EXPECT_EQ(dataset->damage().incomplete_samples, 0);
  DataConfig options;
  options.image_size = 112;
  EvalLoader loader(dataset, options, /*batch_size=*/64, null_logger());
  std::set<std::int64_t> ids;
  std::int64_t images = 0;
  double brightness = 0;
  while (const auto batch = loader.next()) {
    images += batch->pixels.size(0);
    brightness += batch->pixels.to(at::kDouble).mean({1, 2, 3}).sum().item<double>();
    for (const auto& captions : batch->captions) EXPECT_EQ(captions.size(), 5u);
    for (std::int64_t i = 0; i < batch->image_ids.size(0); ++i)
      ids.insert(batch->image_ids[i].item<std::int64_t>());
  }
  EXPECT_EQ(images, 1000);
  EXPECT_EQ(ids.size(), 1000u);
  EXPECT_EQ(loader.broken(), 0);
  EXPECT_GT(brightness / 1000, 80);
  EXPECT_LT(brightness / 1000, 150);
}

TEST(Flickr8k, TrainingShardsGiveAnEpochOfDifferentPhotographs) {
  const auto folder = data_folder() / "flickr8k";
  if (!std::filesystem::exists(folder / "train-000000.tar")) {
    GTEST_SKIP() << "no " << folder << "; set TESSERA_DATA_DIR";
  }
  const auto dataset = open_source({(folder / "train-{000000..000005}.tar").string()}, {}, null_logger());
  EXPECT_EQ(dataset->size(), 6000);
  DataConfig options;
  options.image_size = 64;
  options.batch_size = 32;
  TrainLoader loader(dataset, options, {}, null_logger());
  loader.start_epoch(0);
  std::set<std::string> keys;
  for (int i = 0; i < 8; ++i) {
    const auto batch = loader.next();
    ASSERT_TRUE(batch.has_value());
    keys.insert(batch->keys.begin(), batch->keys.end());
  }
  EXPECT_EQ(keys.size(), 256u);
}

}  // namespace
}  // namespace tessera::data
