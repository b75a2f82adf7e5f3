#pragma once

#include <string>
#include <vector>

#include "core/archive.h"
#include "language/tokenizer.h"
#include "losses/itc_queue.h"

namespace tessera::bench {

/// The queue that a training step saved.
/// @throws Error where the archive has none
losses::ItcQueue queue_in(const Archive& state);

/// Fills the queue that a training step saved with made-up pairs: a run would need hundreds of steps for as
/// many. Embeddings are random directions; compressed images standard normal, as the compressor's norm leaves
/// them; texts are the captions given, in turn; image ids are those of no image. In place, since a copy of
/// the payload would show in the peak memory that is measured.
void fill_queue(Archive& state, const language::Tokenizer& tokenizer,
                const std::vector<std::string>& captions);

}  // namespace tessera::bench
