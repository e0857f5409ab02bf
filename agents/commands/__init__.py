"""What people run: click commands called `cli`, as `marketflow NAME` or, through `scripts/NAME.py`, `ape run NAME`."""
