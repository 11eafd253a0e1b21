import java.net.URLEncoder;

/** One answer or event line being built. */
final class Row {
    private final StringBuilder text = new StringBuilder();

    Row put(String key, Object value) {
        if (value == null) {
            return this;
        }
        try {
            if (text.length() > 0) {
                text.append('&');
            }
            text.append(URLEncoder.encode(key, "UTF-8")).append('=').append(URLEncoder.encode(value.toString(), "UTF-8"));
        } catch (java.io.UnsupportedEncodingException e) {
            throw new IllegalStateException(e);
        }
        return this;
    }

    @Override
    public String toString() {
        return text.toString();
    }
}
