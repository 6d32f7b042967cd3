"""The wrapped vision-language models: the envoy of each site, the inputs of a question, the place where the answer is read."""
