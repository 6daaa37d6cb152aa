"""A suite, unattended.

session.py  one night · staffing.py  which nodes run · guard.py  one nightly at a time on a cluster
document.py  the night as it is written down · showing.py  in words · notice.py  what others hear of it
schedule.py  the files of systemd and cron that start it
"""
