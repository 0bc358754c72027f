/* SPDX-License-Identifier: Apache-2.0 */
#include "flight.h"

#include "flight_impl.h"

static void *hand_main(void *arg)
{
    struct kvl_flights *flights = arg;

    pthread_mutex_lock(&flights->lock);
    while (flights->arrived != NULL || !flights->hands_stop) {
        struct kvl_flight *flight = flights->arrived;

        if (flight == NULL) {
            pthread_cond_wait(&flights->work, &flights->lock);
            continue;
        }
        flights->arrived = flight->next_arrived;
        if (flights->arrived == NULL) {
            flights->arrived_last = &flights->arrived;
        }
        pthread_mutex_unlock(&flights->lock);
        kvl_flight_land(flights, flight);
        pthread_mutex_lock(&flights->lock);
    }
    pthread_mutex_unlock(&flights->lock);
    return NULL;
}

int kvl_flight_hand_over(struct kvl_flights *flights, struct kvl_flight *flight)
{
    int has_hands;

    pthread_mutex_lock(&flights->lock);
    has_hands = flights->hand_count > 0 && !flights->hands_stop;
    if (has_hands) {
        flight->next_arrived = NULL;
        *flights->arrived_last = flight;
        flights->arrived_last = &flight->next_arrived;
        pthread_cond_signal(&flights->work);
    }
    pthread_mutex_unlock(&flights->lock);
    return has_hands;
}

int kvl_flights_start_hands(struct kvl_flights *flights)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < KVL_HANDS; i++) {
        r = kvl_thread_create("kvl-land", hand_main, flights, &flights->hands[i]);
        if (r == 0) {
            pthread_mutex_lock(&flights->lock);
            flights->hand_count++;
            pthread_mutex_unlock(&flights->lock);
        }
    }
    return r;
}

void kvl_flights_stop_hands(struct kvl_flights *flights)
{
    if (flights == NULL) {
        return;
    }
    pthread_mutex_lock(&flights->lock);
    flights->hands_stop = 1;
    pthread_cond_broadcast(&flights->work);
    pthread_mutex_unlock(&flights->lock);
    for (uint32_t i = 0; i < flights->hand_count; i++) {
        pthread_join(flights->hands[i], NULL);
    }
    flights->hand_count = 0;
}
