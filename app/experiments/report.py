"""A comparison as one HTML page, in Chinese and English; works offline and without scripts."""

import time
from collections.abc import Sequence
from html import escape

from app.experiments.charts import IntervalPoint, Series, interval_chart, line_chart
from app.experiments.comparison import TESTS, ComparedArm, Comparison

_STYLE = """
:root{color-scheme:light dark;--fg:#1b1b1b;--bg:#fff;--line:#d5d5d5;--soft:#f4f6f8}
@media(prefers-color-scheme:dark){:root{--fg:#e8e8e8;--bg:#16181b;--line:#3a3d42;--soft:#1f2226}}
body{font:15px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif;color:var(--fg);background:var(--bg);
margin:0 auto;max-width:1100px;padding:1rem}
h1{font-size:1.5rem;margin:.4rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.wide{overflow-x:auto}table{border-collapse:collapse;min-width:100%}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;vertical-align:top}
thead th{white-space:normal}th:first-child,td:first-child,td.words,th.words{text-align:left;white-space:normal;min-width:9rem}
thead th{background:var(--soft)}small{opacity:.75}svg{display:block;width:100%;max-width:640px;height:auto}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:1rem}figure{margin:0}
figcaption{font-weight:600;margin:.3rem 0}
"""
_KINDS = {
    "ramp": "训练数据量 Number of training rows",
    "hyperparameters": "超参数 Hyperparameters",
    "base_models": "基座模型 Base models",
}
_STATUS = {
    "running": "进行中 running",
    "succeeded": "已完成 succeeded",
    "failed": "部分失败 failed in part",
    "cancelled": "已取消 cancelled",
}
_ARM_STATUS = {
    "queued": "排队 queued",
    "training": "训练中 training",
    "paused": "已暂停 paused",
    "trained": "已训练 trained",
    "evaluating": "评测中 evaluating",
    "succeeded": "完成 succeeded",
    "failed": "失败 failed",
    "cancelled": "已取消 cancelled",
}
_NOTE = (
    "完全匹配用 McNemar 精确检验（双侧，Holm 校正）；F1 差为 95 % 自助法区间。",
    "样本是测试行：换一个训练随机种子结果也会变，检验不含这部分。",
)
_VERDICTS = {
    "better": "更好 better",
    "worse": "更差 worse",
    "not distinguishable": "无法区分 not distinguishable",
}
_INTERVAL_NAMES = (("exact_match", "完全匹配 Exact match"), ("set_f1", "集合 F1 Set F1"), ("invalid_rate", "无效率 Invalid rate"))


def report_html(comparison: Comparison) -> str:
    """Returns the whole page; every text of a user's is escaped."""
    experiment = comparison.experiment
    name = experiment.name or experiment.id
    created = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(experiment.created_at))
    validation = experiment.validation_file_id

    def named(file_id: str) -> str:
        name = comparison.file_names.get(file_id)
        return file_id if name is None else f"{name} ({file_id})"

    rows = next((arm.metrics["rows"] for arm in comparison.arms if "rows" in arm.metrics), None)
    facts = [
        ("实验 Experiment", experiment.id),
        ("变量 Varied", _KINDS.get(experiment.kind, experiment.kind)),
        ("状态 Status", _STATUS.get(experiment.status, experiment.status)),
        ("创建 Created", created),
        ("基座模型 Base model", ", ".join(dict.fromkeys(arm.base_model for arm in comparison.arms))),
        ("评测设备 Answered on", ", ".join(dict.fromkeys(str(arm.metrics.get("device", "—")) for arm in comparison.arms))),
        ("随机种子 Seed", str(experiment.seed)),
        ("训练集 Training file", named(experiment.training_file_id)),
        *([] if validation is None else [("验证集 Validation file", named(validation))]),
        ("测试集 Test file", f"{named(experiment.test_file_id)}{'' if rows is None else f', {rows} 行 rows'}"),
        ("固定超参数 Fixed", ", ".join(f"{key}={value}" for key, value in experiment.hyperparameters.items()) or "—"),
    ]
    listed = "".join(f"<tr><td>{escape(key)}</td><td class=words>{escape(value)}</td></tr>" for key, value in facts)
    return (
        f'<!doctype html><html lang="zh"><head><meta charset="utf-8"><title>{escape(name)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(name)}</h1><div class=wide><table><tbody>{listed}</tbody></table></div>"
        f"<h2>结果 Results</h2>{_metrics_table(comparison.arms)}"
        f"<h2>与基线比较 Against the baseline</h2>{_tests_table(comparison.arms)}"
        f"<p><small>{''.join(_NOTE)}<br>{escape('. '.join(TESTS.values()))}</small></p>"
        f"<h2>图 Plots</h2><div class=pictures>{_pictures(comparison.arms)}</div>"
        f"<h2>成本 Cost</h2>{_cost_table(comparison.arms)}</body></html>"
    )


def _metrics_table(arms: Sequence[ComparedArm]) -> str:
    heads = [
        "组 Arm",
        "状态 Status",
        "训练行 Rows",
        "完全匹配 Exact match",
        "有序 Ordered",
        "集合 F1 Set F1",
        "微 F1 Micro F1",
        "类别宏 F1 Macro F1",
        "无效 Invalid",
        "转人工 Fallback",
        "ECE",
    ]
    names = ("exact_match", "ordered_match", "set_f1", "micro_f1", "macro_f1_by_category", "invalid_rate", "fallback_rate", "ece")
    return _table(
        heads,
        [[arm.label, _ARM_STATUS[arm.status], str(arm.training_rows), *(_metric(arm, name) for name in names)] for arm in arms],
    )


def _tests_table(arms: Sequence[ComparedArm]) -> str:
    heads = ["组 Arm", "结论 Verdict", "差 Difference", "仅此对 / 仅基线对 Right alone", "p", "F1 差 F1 difference", "n"]
    rows = []
    for arm in arms:
        versus = arm.versus_baseline
        if versus is None:
            rows.append([arm.label, "基线 baseline" if arm.is_baseline else "—", "", "", "", "", ""])
            continue
        pair = versus.paired
        low, high = pair.set_f1_interval
        rows.append(
            [
                arm.label,
                _VERDICTS[versus.verdict],
                f"{pair.exact_match_difference:+.3f}",
                f"{pair.only_this_right} / {pair.only_baseline_right}",
                f"{versus.exact_match_p_adjusted:.2g}",
                f"{pair.set_f1_difference:+.3f} [{low:+.3f}, {high:+.3f}]",
                str(pair.rows),
            ]
        )
    return _table(heads, rows)


def _cost_table(arms: Sequence[ComparedArm]) -> str:
    heads = ["组 Arm", "训练秒 Seconds", "样本/秒 Samples/s", "训练词元 Tokens", "可训练参数 Parameters", "峰值显存 Peak GiB"]
    names = ("train_seconds", "train_samples_per_s", "trained_tokens", "trainable_parameters", "peak_memory_gib")
    return _table(
        heads,
        [[arm.label, *("—" if (value := arm.cost.get(name)) is None else f"{value:,}" for name in names)] for arm in arms],
    )


def _pictures(arms: Sequence[ComparedArm]) -> str:
    pictures = []
    for name, title in _INTERVAL_NAMES:
        points = [
            IntervalPoint(arm.label, arm.metrics[name], *arm.intervals[name])
            for arm in arms
            if name in arm.metrics and name in arm.intervals
        ]
        if points:
            pictures.append(_figure(f"{title}, 95 %", interval_chart(points, title=title)))
    epochs = "轮 epoch"
    losses = [Series(arm.label, [(epoch, loss) for _, epoch, loss in arm.loss]) for arm in arms]
    pictures.append(
        _figure("训练损失 Training loss", line_chart(losses, title="Training loss", x_label=epochs, y_label="nats / token"))
    )
    for name, title in (
        ("exact_match", "验证集完全匹配 Exact match on validation rows"),
        ("eval_loss", "验证损失 Validation loss"),
    ):
        lines = [
            Series(arm.label, [(scores["epoch"], scores[name]) for scores in arm.by_epoch if name in scores]) for arm in arms
        ]
        pictures.append(_figure(title, line_chart(lines, title=title, x_label=epochs, y_label="")))
    return "".join(pictures)


def _figure(caption: str, picture: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>" if picture else ""


def _metric(arm: ComparedArm, name: str) -> str:
    if name not in arm.metrics:
        return "—"
    bounds = arm.intervals.get(name)
    return f"{arm.metrics[name]:.3f}" + ("" if bounds is None else f" [{bounds[0]:.3f}, {bounds[1]:.3f}]")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th scope=col>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
