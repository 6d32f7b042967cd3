"""The slow, obvious path of every method, one file per method: the fast paths are held against it.

The slow path of a method is in the file of the method's name. Its `run_plain` measures one thing (one patch, one set of heads, one block,
one path, one layer's gradient) by whole traces, image included: nothing is captured before, packed, skipped or batched. It shares with the
fast path only the description of the model's sites (`models/`) and the dataclass of the request. Where the fast path does more than read in
one trace, the file also has `verify_...`: it measures some numbers of the fast path again, and raises `VerificationError` where the two
differ by more than rounding. Methods call it on the first samples of a run. Tests hold both paths against raw PyTorch hooks;
`docs/oracle_table.md` says for which method, corruption, direction and wrapper.
"""
