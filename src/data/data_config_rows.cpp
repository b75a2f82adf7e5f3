#include "data/data_config.h"

#include "core/config_rows.h"

namespace tessera::data {

ConfigRows config_rows(DataConfig& data) {
  using namespace config_kinds;
  return rows(
      "Pictures and captions",
      {TESSERA_GROUP(data.table, "Columns of a CSV or TSV table of pictures and captions"),
       TESSERA_GROUP(data.augmentation, "Random crops"),
       TESSERA_KEY(
           text_list, data.train, true,
           "WebDataset shards or CSV or TSV tables to train on, braces allowed: train-{000000..000005}.tar"),
       TESSERA_KEY(text_list, data.validation, true, "The same to validate on; empty: no validation"),
       TESSERA_KEY(text, data.table.image, TextKind::kText,
                   "Column of the pictures' paths; empty: one of a usual name, or the first where there is "
                   "no header"),
       TESSERA_KEY(
           text, data.table.caption, TextKind::kText,
           "Column of the captions; empty: one of a usual name, or the second where there is no header"),
       TESSERA_KEY(text, data.table.image_id, TextKind::kText,
                   "Column that tells which pictures show the same; empty: image_id where there is one, else "
                   "the path"),
       TESSERA_KEY(text, data.table.folder, TextKind::kInputPath,
                   "Folder that the pictures' paths are relative to; empty: the table's own"),
       TESSERA_KEY(integer, data.image_size, {1, 4096}, "Pixels of an image's side as the encoder sees it"),
       TESSERA_KEY(number_list, data.image_mean, 3, {}, "Subtracted from red, green and blue (0 to 1)"),
       TESSERA_KEY(number_list, data.image_std, 3, kPositive, "Divides red, green and blue after that"),
       TESSERA_KEY(boolean, data.augmentation.random_resized_crop,
                   "Train on random crops; else on the whole picture's centre. Never flips: left stays left"),
       TESSERA_KEY(number, data.augmentation.scale_min, kPositiveFraction,
                   "Smallest crop, as a share of the picture's area"),
       TESSERA_KEY(number, data.augmentation.scale_max, kPositiveFraction,
                   "Largest crop, as a share of the picture's area"),
       TESSERA_KEY(number, data.augmentation.ratio_min, kPositive, "Narrowest crop, width divided by height"),
       TESSERA_KEY(number, data.augmentation.ratio_max, kPositive, "Widest crop, width divided by height"),
       TESSERA_KEY(integer, data.batch_size, {1, 1 << 20}, "Pairs that each rank takes a step"),
       TESSERA_KEY(boolean, data.drop_last, "Leave out an epoch's last batch where it is short"),
       TESSERA_KEY(integer, data.workers, {1, 1024}, "Threads of each rank that read and decode images"),
       TESSERA_KEY(integer, data.prefetch_batches, {1, 1024},
                   "Batches kept ready ahead of the training step"),
       TESSERA_KEY(number, data.max_broken_fraction, kFraction,
                   "A larger share of unreadable samples than this stops the run")});
}

}  // namespace tessera::data
