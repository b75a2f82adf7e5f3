#pragma once

#include <string>

namespace tessera {
struct Config;
}
namespace tessera::language {
class Tokenizer;
}
namespace tessera::model {
class Stage1Model;
}

namespace tessera::model {

/// A name for the codes that a model gives its pairs (Stage1Model::pair_codes): SHA-1 of every weight that
/// they follow from, of the memory's prior mean, of the tokenizer, and of how images and texts are cut. What
/// only decodes, matches or compares plays no part, so that training these alone leaves a memory's file
/// valid. Exact: adapters that were merged into the backbone change the last bit of its weights and with it
/// the fingerprint.
///
/// @return 40 hexadecimal digits
std::string code_fingerprint(const Stage1Model& model, const Config& config,
                             const language::Tokenizer& tokenizer);

}  // namespace tessera::model
