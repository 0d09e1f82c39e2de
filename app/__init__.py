"""Dianda: the product. The map of the house.

Three processes run from this tree:

* **api** (`app.main`) - all of HTTP. Has no torch.
* **answerer** (`app.answerer.main`) - one base model in memory, many adapters. Has no database.
* **worker** (`worker.main`) - Celery, one slot; starts one fresh training process a job. Has no FastAPI.

`worker` imports `app`; `app` never imports `worker`. Inside `app` the rooms stand in layers, each may use those
below it and none above:

    main | cli | answerer
    route_scopes
    console
    promotions | experiments
    evaluations | exports
    answers
    jobs
    codebook
    adapters | datasets
    access
    http
    db | blobs | ml
    errors | durable
    fault_points

A domain room holds `endpoints > service > repository > models | schemas`. torch is imported only under
`app.ml.engine`. `pyproject.toml` states these rules for import-linter; `tests/architecture` checks them at run time.
"""
