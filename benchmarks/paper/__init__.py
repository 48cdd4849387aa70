"""The network-selection experiment of Bolukbasi et al. 2017 on recorded scores."""
