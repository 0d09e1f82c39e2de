"""The fault suite, `make faults`: the whole product as processes, and a driver that breaks one thing after the other.

network      links between processes that can be cut, stalled and reset
house        the processes, started again when they die, and what is down when
visitors     who asks the promoted alias all the while, and who posts jobs
faults       what can be done to them
history      what is in the database, the blobs and the visitors' books afterwards
invariants   what must be true of it
driver       rounds of faults; a check after each
"""
