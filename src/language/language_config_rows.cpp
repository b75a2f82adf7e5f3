#include "language/language_config.h"

#include "core/config_rows.h"

namespace tessera::language {

ConfigRows config_rows(LanguageConfig& language) {
  using namespace config_kinds;
  return rows(
      "The language model, Llama-shaped; sizes are read where language.weights is random",
      {TESSERA_KEY(text, language.tokenizer, TextKind::kInputPath,
                   "SentencePiece .model file, as `tessera train-tokenizer` writes it"),
       TESSERA_KEY(
           text, language.weights, TextKind::kInputPathOrRandom,
           "Hugging Face LlamaForCausalLM folder (.safetensors or .bin, also in shards); random: drawn from "
           "the seed"),
       TESSERA_KEY(integer, language.vocab_size, {5, 1 << 24},
                   "Rows of the token embedding: as many as the tokenizer has entries"),
       TESSERA_KEY(integer, language.hidden_size, {2, 1 << 16}, "Width of a token"),
       TESSERA_KEY(integer, language.num_hidden_layers, {1, 1024}, "Transformer layers"),
       TESSERA_KEY(integer, language.num_attention_heads, {1, 1024},
                   "Attention heads; hidden_size is an even multiple of it"),
       TESSERA_KEY(integer, language.intermediate_size, {1, 1 << 20},
                   "Width of the SwiGLU feed-forward part"),
       TESSERA_KEY(integer, language.max_position_embeddings, {2, 1 << 20},
                   "Longest sequence that the model takes"),
       TESSERA_KEY(number, language.rope_theta, kPositive, "Base of the rotary position embedding"),
       TESSERA_KEY(number, language.rms_norm_eps, kPositive, "Added to the mean square in RMS norms"),
       TESSERA_KEY(integer, language.max_tokens, {3, 1 << 20},
                   "A caption is cut to so many tokens, begin and end included; its end token stays"),
       TESSERA_KEY(
           words<lora::TrainableChoice>, language.trainable, lora::trainable_words(),
           "What of the language model trains: nothing, LoRA adapters (language.lora, in both phases), "
           "or all"),
       TESSERA_SECTION(language.lora, "the language model (language.trainable: lora)")});
}

}  // namespace tessera::language
