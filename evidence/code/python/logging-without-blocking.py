import logging
import logging.config
import logging.handlers

from app.log import JsonFormatter, RequestIdFilter

<<CELL>>
