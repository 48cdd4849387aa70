"""Reports: figures as numbers, apart from drawing them and from the page around them; and cards."""

from offramp.report.card import card, write_card
from offramp.report.dial import DialView, dial
from offramp.report.inputs import report_inputs
from offramp.report.page import Clock, ReportInput, write_report

__all__ = [
    "Clock",
    "DialView",
    "ReportInput",
    "card",
    "dial",
    "report_inputs",
    "write_card",
    "write_report",
]
