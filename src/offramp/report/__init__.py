"""Reports: figures as numbers, apart from drawing them and from the page around them."""

from offramp.report.inputs import report_inputs
from offramp.report.page import ReportInput, write_report

__all__ = ["ReportInput", "report_inputs", "write_report"]
