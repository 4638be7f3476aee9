"""What an export holds that speaks to a control: an index, and OSCAL assessment results. No compliance is claimed."""
