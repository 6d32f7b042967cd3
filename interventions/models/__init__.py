"""The wrapped vision-language models: which envoy is which site, how a question becomes inputs, where the answer is read."""
