"""The slow, obvious path of every method, one file a method: what the fast paths are held against.

A method's slow path stands in the file of the method's name. Its `run_plain` measures one thing (one patch, one set of heads, one
block, one path, one layer's gradient) by whole traces, image included: nothing is captured before, packed, skipped or batched. It
shares with the fast path the description of the model's sites (`models/`) and the dataclass that says what is asked, and nothing
else. Beside it stands `verify_...`, where the fast path does more than read in one trace: it measures some of the fast path's numbers
again, and raises `VerificationError` where the two differ by more than rounding; methods call it on the first samples of a run. Tests
hold both paths against raw PyTorch hooks; `docs/oracle_table.md` says for which method, corruption, direction and wrapper.
"""
