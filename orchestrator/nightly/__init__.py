"""A suite, unattended.

session.py  one night · staffing.py  which nodes run · guard.py  one nightly at a time on a cluster
document.py  the night as it is written down · notice.py  what others hear of it
schedule.py  the files of systemd and cron that start it
"""
