"""The worker process: Celery, one slot, pinned to one device. Imports `app`; nothing imports it.

A bell means look: `tasks` claims the next due job; `finetune`, `evaluation` and `export` are the recipes, read top to bottom;
`child` is the fresh process that holds torch.
"""
